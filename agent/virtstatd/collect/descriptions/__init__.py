"""Descriptions of domains: what their XML and their limits say."""
