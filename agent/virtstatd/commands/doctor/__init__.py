"""`virtstatd doctor`: what the agent can and cannot see here, and what lets it see more."""
