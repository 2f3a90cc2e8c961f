"""Offsets for buffers in one arena: dynamic storage allocation with every lifetime known."""
