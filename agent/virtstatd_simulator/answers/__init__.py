"""The replies of the simulated libvirtd to each procedure."""
