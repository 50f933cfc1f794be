"""What a user may write: frozen pydantic models, one module a document, and the reader that checks them."""
