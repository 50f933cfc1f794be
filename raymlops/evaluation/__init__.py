"""Evaluates models: streaming metrics, intervals, slices, report and gate. Imports neither Ray nor MLflow."""
