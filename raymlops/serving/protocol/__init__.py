"""Converts bodies and messages of the protocols to tensors and back, and describes them (OpenAPI, schemas). Imports
no transport and not Ray."""
