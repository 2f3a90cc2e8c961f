"""Pipelines as chains of sets of groups, each holding the one before: the best of given sets."""
