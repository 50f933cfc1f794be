"""Captured requests with their answers, and labels of them: Parquet files in a folder at any location. Knows neither
Ray nor HTTP."""
