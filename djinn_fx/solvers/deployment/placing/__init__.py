"""Where copies of models go: what fits, how work is split over them, greedy and exact placements."""
