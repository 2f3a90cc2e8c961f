"""Ordering: in which sequence to run what depends on each other, so that least memory is needed at once."""
