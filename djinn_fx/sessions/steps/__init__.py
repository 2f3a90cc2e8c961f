"""Which sessions compute together, how, and how long that takes."""
