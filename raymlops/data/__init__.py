"""Datasets: reading, joining, checking, splitting and statistics, as streams over Ray Data."""
