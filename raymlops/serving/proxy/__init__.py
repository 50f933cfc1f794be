"""What stands before the replicas besides HAProxy: Serve's proxies, their listeners, TLS and keys."""
