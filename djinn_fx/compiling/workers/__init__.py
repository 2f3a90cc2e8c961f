"""Graphs over workers: what the passes are told of these, parts built there, and a plan that outlives a worker."""
