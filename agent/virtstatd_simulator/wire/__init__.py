"""libvirt's protocol: XDR, RPC messages, connections and worker threads."""
