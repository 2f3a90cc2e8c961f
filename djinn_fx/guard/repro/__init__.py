"""A wrong answer as a file that others can run again."""
