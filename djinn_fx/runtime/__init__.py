"""Runs a plan: a flat list of steps behind a boxed callable."""
