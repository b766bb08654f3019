"""Descriptions of domains: facts from their XML, and their limits."""
