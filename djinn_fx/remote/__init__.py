"""Regions on other machines: what travels to a worker and back."""
