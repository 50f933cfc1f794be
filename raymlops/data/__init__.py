"""Datasets: reading, joining, checking, splitting and measuring them, as streams over Ray Data."""
