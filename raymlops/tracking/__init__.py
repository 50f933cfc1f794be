"""MLflow: runs of searches and trials, the model registry, and signed evidence. Only this package imports MLflow."""
