"""Changes to uvicorn and Ray Serve for speed, each with the public way as fallback."""
