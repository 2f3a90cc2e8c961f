# expect: attr=k_means model=- rule=- phase=- breaks=- exit=4 says="bincount|Dynamic shape operator"
"""Lloyd's algorithm for a fixed number of rounds, as a function."""

import torch


def k_means(points, centres, rounds=6):
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add(0, nearest, points)
        counts = torch.bincount(nearest, minlength=len(centres)).clamp(min=1)  # here
        centres = sums / counts[:, None]
    return centres, nearest


def get_inputs():
    return torch.randn(100, 3), torch.randn(5, 3)
