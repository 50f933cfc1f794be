"""MLflow: runs of searches and trials, the model registry, and signatures. The only MLflow user."""
