"""The Ray Serve deployments: the application, and separate nodes of graphs; their gRPC methods, background tasks and
calls to each other."""
