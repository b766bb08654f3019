"""What the simulated libvirtd answers to each procedure."""
