"""Run by test_warm_start.py in a process of its own: compile, check against eager, print what was done as JSON."""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch._dynamo.utils import counters

from djinn_fx.backend import compilations
from djinn_fx.passes import find_regions
from tests.backend.support import stacked


def main() -> None:
    """Compile a stack of layers as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the weights")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    find_regions.FIXED_S = 0.01  # else only more layers, which take longer, would be worth a cut
    module = stacked(layers=given.layers, width=64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(given.scale)
    x = torch.randn(given.batch, 64, generator=torch.Generator().manual_seed(1))
    options = {"regions": "auto:1", "expected_calls": 1, "progress": False, **given.options}
    compiled = torch.compile(module, backend="djinn", options=options)
    start = time.perf_counter()
    with torch.set_grad_enabled(given.train):
        actual, expected = compiled(x), module(x)
    close = torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)
    if given.train:
        gradients = []
        for result in (actual, expected):
            module.zero_grad()
            result.pow(2).mean().backward()
            gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
        close = close and all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*gradients, strict=True))
    builds = [build for graph in compilations() for build in graph.builds]
    report = {
        "right": close,
        "seconds": time.perf_counter() - start,
        "graphs": len(compilations()),
        "regions": len(builds),
        "distinct": len({build.key for build in builds}),
        "outcomes": sorted({build.outcome for build in builds} - {"shared"}),
        "whole_graph_hits": counters["aot_autograd"]["autograd_cache_hit"],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
