"""Values of HTTP headers. Does not know requests."""

Headers = tuple[tuple[bytes, bytes], ...]


JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
