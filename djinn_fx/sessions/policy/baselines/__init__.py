"""Policies known from elsewhere, each in a file: what ours is held against."""
