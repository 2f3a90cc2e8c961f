"""The engine `onnxruntime`."""
