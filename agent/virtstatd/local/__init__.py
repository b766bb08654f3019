"""The local lane: what the kernel itself tells about the guests, without asking libvirt."""
