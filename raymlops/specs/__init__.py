"""What a user may write: frozen pydantic models, one module per document, and the reader that validates them."""
