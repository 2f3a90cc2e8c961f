"""How a graph is cut into regions."""
