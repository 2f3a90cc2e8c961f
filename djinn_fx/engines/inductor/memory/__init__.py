"""What Inductor's functions hold in memory, read off their text."""
