"""HAProxy in front of Ray Serve: what is added to the configuration that Serve writes. Standard library only."""
