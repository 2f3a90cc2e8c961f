"""Which engine answers a call of a region, and how it comes to be built."""
