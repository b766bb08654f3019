"""What the agent can explain, as blocks of text for terminals and for the manual pages."""
