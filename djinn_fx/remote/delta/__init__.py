"""A graph is sent once, and from then on what changed in it; weights by digest, so that none travels twice."""
