"""Benches of the cost models."""
