"""What place shares out: pins, units of work, and who gets which."""
