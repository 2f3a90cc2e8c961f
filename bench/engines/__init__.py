"""Benches of engines and of what guards them."""
