"""The listener and what it shows."""
