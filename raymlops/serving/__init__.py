"""Serves models over HTTP and gRPC on Ray Serve. `app.build_app` is Serve's entry point, `plane.DataPlane` that of
any ASGI server."""
