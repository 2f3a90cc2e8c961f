# expect: attr=adam_step model=adam_step rule=function+get_inputs phase=forward breaks=0 exit=0
"""One step of an optimizer over a list of parameters, out of place."""

import torch


def adam_step(parameters, gradients, moments, squares, step, rate=1e-3, beta1=0.9, beta2=0.999):
    found = []
    for p, g, m, v in zip(parameters, gradients, moments, squares, strict=True):
        m = torch.lerp(g, m, beta1)
        v = torch.lerp(g * g, v, beta2)
        m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
        found.append((p - rate * m_hat / (v_hat.sqrt() + 1e-8), m, v))
    return found


def get_inputs():
    shapes = [(8, 4), (8,), (3, 8)]
    lists = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    return [*lists, [torch.rand(shape) for shape in shapes], 10]
