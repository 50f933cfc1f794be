"""Clusters: their configuration, manifests, tokens, checks, and what is shipped to them. No Serve, no tracking."""
