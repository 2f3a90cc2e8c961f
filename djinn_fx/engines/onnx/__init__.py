"""Regions as ONNX models, made straight from their ATen graphs: what ONNX Runtime and OpenVINO are given to run."""
