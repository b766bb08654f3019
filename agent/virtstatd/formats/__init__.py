"""Readings to bytes: pure functions without files, sockets or event loops."""
