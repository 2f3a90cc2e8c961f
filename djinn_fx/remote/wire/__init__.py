"""Frames of tensors in numpy's format, between a client and a worker; nothing in one is evaluated or unpickled."""
