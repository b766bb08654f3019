"""Bytes to somewhere: HTTP, gRPC, files, TLS and credentials; knows no metric."""
