"""A graph under a memory budget: what of it fits, and running it in slices of its batch where it does not."""
