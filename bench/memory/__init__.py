"""Benches of memory: peaks, packing, order, budgets."""
