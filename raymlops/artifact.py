"""Names inside a model's artifact: its files, and the keys of an ONNX file's metadata. Reads nothing."""

MODEL_FILE = "model.onnx"
"""File name of the ONNX file among the files of a model, whatever the model's name."""
PROFILE_FILE = "profile.json"
FEATURES_FILE = "features.json"
CONTRACT_KEY = "raymlops.contract"
"""Metadata key: a JSON object with the model's contract on its columns and labels."""
