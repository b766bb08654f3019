"""Builds and runs everything; nothing else does."""
