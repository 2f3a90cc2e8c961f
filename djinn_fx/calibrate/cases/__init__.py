"""What is timed to know a machine."""
