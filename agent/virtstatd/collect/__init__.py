"""Left side: the collectors, one per file or folder."""
