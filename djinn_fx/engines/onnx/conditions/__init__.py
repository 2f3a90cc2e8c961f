"""What must hold of a call's values for a model in ONNX to answer as torch does."""
