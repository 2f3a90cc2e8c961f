"""Benches of compiling."""
