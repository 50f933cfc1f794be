"""Serve's proxies in front of the replicas: their listeners, TLS and API keys. HAProxy has its own package."""
