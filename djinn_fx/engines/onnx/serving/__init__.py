"""What engines share whose runtime reads ONNX."""
