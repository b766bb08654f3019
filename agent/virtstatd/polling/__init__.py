"""When to ask, and who asks."""
