"""Bulk statistics of libvirt: every group of many domains in one call."""
