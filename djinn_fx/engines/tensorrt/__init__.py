"""TensorRT: regions become ONNX models, children build plans of them, a CUDA session runs the plans."""
