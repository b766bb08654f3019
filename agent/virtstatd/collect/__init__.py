"""Left side: what can be asked, one collector per file or folder."""
