"""Scores files and datasets with a model or a graph."""
