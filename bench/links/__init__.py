"""Benches of links between devices."""
