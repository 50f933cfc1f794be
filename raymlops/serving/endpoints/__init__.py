"""What answers: a model, a graph or a folder of models as an endpoint, batching, statistics. No HTTP and no Ray."""
