"""Names inside a model's artifact: its files, and the keys of an ONNX file's metadata. Reads nothing."""

MODEL_FILE = "model.onnx"
"""What the ONNX file itself is called among the files of a model, whatever its name."""
PROFILE_FILE = "profile.json"
FEATURES_FILE = "features.json"
CONTRACT_KEY = "raymlops.contract"
"""Of the metadata: a JSON object of what the model says of its own columns and labels."""
