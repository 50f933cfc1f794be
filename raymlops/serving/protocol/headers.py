"""Headers of HTTP as values. Knows no requests."""

Headers = tuple[tuple[bytes, bytes], ...]


JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
