"""What each ATen op is in ONNX, one module a theme; every module here is imported by ``registry.load``."""
