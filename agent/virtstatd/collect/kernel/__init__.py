"""Numbers of the host and its local guests, read from the kernel."""
