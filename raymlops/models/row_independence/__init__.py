"""Proves that a model answers every row of a batch by that row alone; see interpreter.py."""

from raymlops.models.row_independence.interpreter import Independence, prove_rows

__all__ = ["Independence", "prove_rows"]
