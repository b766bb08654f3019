"""The configuration file: reading, checking and documenting it."""
