"""The settings: one table of them, and the places that they are read from."""
