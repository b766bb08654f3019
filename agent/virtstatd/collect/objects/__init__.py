"""Objects of libvirt beside its guests: storage pools and networks."""
