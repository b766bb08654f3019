"""Deliver bytes over HTTP, gRPC, sockets and files, with TLS and credentials; no metric here."""
