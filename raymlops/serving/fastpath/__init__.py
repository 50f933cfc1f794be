"""What is changed of uvicorn and of Ray Serve for speed, each with the public way as fallback."""
