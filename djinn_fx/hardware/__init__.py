"""Devices: rows with their source, and what is known of this machine."""
