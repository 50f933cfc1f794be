"""Proves that each row of a model's output depends on the same row of its inputs alone; see interpreter.py."""

from raymlops.models.row_independence.interpreter import Independence, prove_rows

__all__ = ["Independence", "prove_rows"]
