"""Distributed training and serving on Ray: from a dataset to a monitored endpoint with one spec and one artifact."""

__version__ = "0.1.0"
