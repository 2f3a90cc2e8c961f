"""Problems in, solutions with their bounds out: plain ints and numpy, no torch."""
