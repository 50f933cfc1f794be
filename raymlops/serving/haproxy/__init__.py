"""HAProxy in front of Ray Serve: additions to the configuration that Serve writes. Standard library only."""
