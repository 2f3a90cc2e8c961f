"""Holds an engine's answers against the region's own ops before they are used, and puts on record what went wrong."""
