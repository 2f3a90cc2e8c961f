"""What a graph does over time: when regions run, what is in memory, what flows where, and what costs most."""
