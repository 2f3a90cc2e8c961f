"""Compiling for several devices: what the passes are told, and a plan's regions built for theirs."""
