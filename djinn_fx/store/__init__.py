"""The cache on disk: signed entries, and what may be thrown away."""
