# expect: model=- rule=- phase=- breaks=- exit=4 says="SyntaxError"
"""Not Python, from the marked line on."""

import torch

model = torch.nn.Linear(3, 3
x = torch.randn(2, 3)
