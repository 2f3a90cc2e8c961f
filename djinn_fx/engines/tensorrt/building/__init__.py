"""What a child process runs to make a plan of a model."""
