"""Judges models: streaming metrics, intervals, slices, report and gate. Knows no Ray, no MLflow."""
