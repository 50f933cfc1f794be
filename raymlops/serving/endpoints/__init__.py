"""Endpoints: a model, a graph or a folder of models; batching, statistics, observers. Imports neither HTTP nor Ray."""
