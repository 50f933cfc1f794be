"""Models behind HTTP and gRPC on Ray Serve. `app.build_app` is the way in for Serve, `plane.DataPlane` for
any ASGI server."""
