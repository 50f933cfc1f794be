"""Compares what a model is given and answers with the rows it was evaluated on: pure functions of arrays. Reads no
table, runs no model, knows neither Ray nor HTTP."""
