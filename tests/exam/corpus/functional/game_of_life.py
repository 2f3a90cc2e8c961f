# expect: model=life rule=model-function+example_inputs phase=encode/vision breaks=0 exit=0
"""Conway's game, some generations at once, by counting neighbours with a convolution."""

import torch
import torch.nn.functional as F


def life(board, generations=4):
    kernel = torch.ones(1, 1, 3, 3)
    kernel[0, 0, 1, 1] = 0
    for _ in range(generations):
        neighbours = F.conv2d(F.pad(board, (1, 1, 1, 1), mode="circular"), kernel)
        board = ((neighbours == 3) | ((neighbours == 2) & (board == 1))).to(board.dtype)
    return board


model = life
example_inputs = (torch.randint(0, 2, (1, 1, 20, 20)).float(),)
