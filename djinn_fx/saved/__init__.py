"""Compiled functions in torch's caches and in files."""
