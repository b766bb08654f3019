"""The modules around libvirt: its events, threads, connections and errors."""
