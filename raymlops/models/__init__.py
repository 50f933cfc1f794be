"""ONNX models: exporting them, proving them equal to their network, and running them on ONNX Runtime."""
