"""TensorRT: regions become network descriptions, children build plans of them, a CUDA session runs the plans."""
