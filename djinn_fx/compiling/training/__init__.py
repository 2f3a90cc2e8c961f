"""Training: what is kept from the forward graph for the backward graph, and what is computed again."""
