"""All that imports libvirt: its events, its threads, its connections, its errors."""
