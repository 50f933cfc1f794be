"""Bodies and messages of the protocols <-> tensors, and the documents that describe both. No transport, no Ray."""
