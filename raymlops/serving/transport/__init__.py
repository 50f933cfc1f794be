"""HTTP and gRPC: request limits, API keys, rate limits, routes, logs. Runs under any ASGI server; does not import Ray
Serve."""
