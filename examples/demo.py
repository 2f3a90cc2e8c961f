"""Compile a Transformers decoder with djinn, check it against eager, and explain what was done: ``make demo``."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any


def main() -> int:
    """Run the demo; the exit code is 1 if the compiled model computes something else than eager."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=256, help="a multiple of 64")
    parser.add_argument("--keep-cache", action="store_true", help="use your caches instead of empty ones")
    arguments = parser.parse_args()
    if arguments.layers < 1 or arguments.hidden < 64 or arguments.hidden % 64:
        parser.error("--layers must be at least 1, and --hidden a multiple of 64")
    if arguments.keep_cache:
        return demo(arguments.layers, arguments.hidden)
    with tempfile.TemporaryDirectory(prefix="djinn-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["DJINN_CACHE_DIR"] = os.path.join(folder, "djinn")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, "inductor")
        return demo(arguments.layers, arguments.hidden)


def demo(layers: int, hidden: int) -> int:
    """Time, compile, compare, explain."""
    import torch
    from decoder import get_inputs, get_model

    from djinn_fx.backend import capture, compilations
    from djinn_fx.explain.examine import make_report, model_info
    from djinn_fx.explain.text import print_report

    torch.manual_seed(0)
    model, inputs = get_model(layers, hidden), get_inputs()
    print(f"A Llama decoder of {layers} layers, hidden size {hidden}, random weights; one prompt of 128 tokens.\n")
    # One engine by name, to show what is compiled and how often; left out, the fastest that is installed is chosen.
    compiled = torch.compile(model, backend="djinn", options={"engine": "inductor"})
    with torch.no_grad():
        expected = model(**inputs).logits
        eager = median_seconds(lambda: model(**inputs))
        start = time.perf_counter()
        actual = compiled(**inputs).logits
        cold = time.perf_counter() - start
        steady = median_seconds(lambda: compiled(**inputs))
        # With --keep-cache the graph may have come from the cache without being planned again: then plan it now.
        graphs = compilations() or capture(model, (), inputs).graphs

    gap = float((expected - actual).abs().max())
    correct = torch.allclose(expected, actual, rtol=1e-3, atol=1e-4)
    regions = [region for graph in graphs for region in graph.plan.regions]
    distinct = sum(graph.plan.distinct_regions for graph in graphs)
    print(f"eager call           {eager * 1e3:8.1f} ms (median)")
    print(f"first compiled call  {cold:8.1f} s  (compiling included)")
    print(f"steady compiled call {steady * 1e3:8.1f} ms (median)")
    print(f"regions              {len(regions):8d}    {distinct} of them distinct: so many are compiled")
    print(f"largest difference   {gap:8.1e}    {'equal to eager' if correct else 'WRONG'} (rtol 1e-3, atol 1e-4)")

    info = model_info(model, file="examples/decoder.py", attr="get_model", rule="get_model()", mode="inference")
    print_report(make_report(info, graphs), sys.stdout)
    return 0 if correct else 1


def median_seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """The median time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
