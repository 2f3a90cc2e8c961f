"""Models whose weights do not fit into memory: read from safetensors while the model runs."""
