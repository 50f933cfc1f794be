"""Ray clusters: configuration, manifests, tokens, checks and job packages. Imports neither Serve nor MLflow."""
