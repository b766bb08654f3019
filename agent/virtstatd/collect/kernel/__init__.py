"""Numbers of the host and its local guests that the kernel has."""
