"""Which devices are linked how, and what a transfer between them takes."""
