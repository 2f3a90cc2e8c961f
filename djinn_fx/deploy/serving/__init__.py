"""A plan's models answering for real: how an entry is loaded, and the application that Ray Serve runs."""
