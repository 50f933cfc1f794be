"""HTTP and gRPC: requests within limits, keys, rate limits, routes, logs. Any ASGI server runs it; no Ray Serve."""
