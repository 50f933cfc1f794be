"""Composition graphs: validated, placed and run over awaitables. Imports neither Ray nor HTTP, and opens no model
files."""
