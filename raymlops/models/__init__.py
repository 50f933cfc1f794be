"""ONNX models: export, parity with the trained network, safety checks, and execution with ONNX Runtime."""
