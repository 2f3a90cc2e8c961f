"""Whose pages are on the device: what turns need, what a policy wishes, what of it can be done."""
