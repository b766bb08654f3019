"""Faults of a libvirtd, and the control socket that arms them."""
