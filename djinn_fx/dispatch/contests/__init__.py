"""Engines timed against each other on the user's own calls."""
