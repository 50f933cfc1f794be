"""Composition graphs: checked, placed and run over awaitables. Knows no Ray, no HTTP and no model files."""
