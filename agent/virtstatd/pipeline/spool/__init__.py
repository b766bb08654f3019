"""The queue on disk of a sink whose batches outlive the agent."""
