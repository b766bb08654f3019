"""Libvirt's events of domains, as counters and as records."""
