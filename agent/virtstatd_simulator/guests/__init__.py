"""Simulated guests and their host: layout, load and numbers as functions of time."""
