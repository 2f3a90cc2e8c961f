"""A plan called as the region it was made of."""
