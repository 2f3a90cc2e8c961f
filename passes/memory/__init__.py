"""Passes about memory."""
