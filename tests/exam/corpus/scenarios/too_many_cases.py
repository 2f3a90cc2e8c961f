# expect: model=- rule=- phase=- breaks=- exit=3 says="14 cases" lists=scale#1,scale#14
"""More cases than a reader bears at once: all are listed, each with its command."""

import torch


def scale(x, factor):
    return (x * factor).logsumexp(-1)


cases = [("scale", scale, [torch.randn(3, 3 + size), 2.0]) for size in range(14)]
