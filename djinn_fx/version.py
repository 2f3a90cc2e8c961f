"""The package's version. A file of its own, so that whatever needs it imports nothing else."""

VERSION = "0.2.0"
