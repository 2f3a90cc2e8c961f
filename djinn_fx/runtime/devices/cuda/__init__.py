"""Runs a plan over CUDA devices: a thread and two streams for each; between devices nothing waits but streams."""
