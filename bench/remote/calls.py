"""What a request to a worker on this machine takes, there and back: by an actor call, and by a Compiled Graph.

A small one asks for nothing; a large one takes 4 MB there, as a tensor in a frame, which the worker reads. All take
turns. Beside them stands what Ray alone takes for an array of the same size, with no frame made or read.

    python bench/remote/calls.py --json bench/results/calls.json
    python bench/remote/calls.py --quick
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.harness.harness import Report, no_gc, parse, parser, table
from bench.remote.line import Line
from djinn_fx.remote.wire.frame import encode, joined
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.cluster import imported
from djinn_fx.remote.workers.pool import Pool, Wanted

SMALL_MOST, LARGE = 4096, 4 * 2**20
#: Seconds that a request may take at the median.
BAR_S = 1e-3


def main() -> int:
    """See the module's text."""
    arguments = parse(parser(__doc__ or ""))
    times = 100 if arguments.quick else 1000
    pool = Pool("local:1", Wanted(build="djinn_fx.compiling.workers.running:build", threads=1))
    try:
        found = measured(pool, times)
    finally:
        pool.close()
    rows = [[name, f"{p50 * 1e3:.3f}", f"{p99 * 1e3:.3f}"] for name, (p50, p99) in found.items()]
    print(table(["request", "p50 ms", "p99 ms"], rows))
    report = Report("remote/calls", arguments)
    report.fact("seconds", {name: {"p50": p50, "p99": p99} for name, (p50, p99) in found.items()})
    report.bar("empty by actor call, p50 s", found["empty, actor call"][0], BAR_S)
    report.bar("4 MB by Compiled Graph, p50 s", found["4 MB, Compiled Graph"][0], BAR_S)
    return report.finish()


def measured(pool: Pool, times: int) -> dict[str, tuple[float, float]]:
    """Median and 99th percentile of each, in seconds."""
    ray = imported()
    worker = pool.workers["worker:0"]
    line = Line(worker, LARGE + 2**16)
    empty = encode(requests.STATUS, {})
    assert sum(map(len, empty)) <= SMALL_MOST
    tensor = torch.zeros(LARGE, dtype=torch.uint8)

    def large() -> list[bytes | memoryview]:
        return encode(requests.RELEASE, {"weights": [], "states": []}, {"t": payload_of(tensor)}, digests=False)

    raw = {"empty": joined(list(empty)), "4 MB": joined(large())}
    ways: dict[str, Callable[[], Any]] = {
        "empty, actor call": lambda: worker.ask([(requests.STATUS, empty)]).wait(),
        "empty, Compiled Graph": lambda: line.call(requests.STATUS, empty),
        "empty, Ray alone": lambda: ray.get(worker.actor.echo.remote(raw["empty"])),
        "4 MB, actor call": lambda: worker.ask([(requests.RELEASE, large())]).wait(),
        "4 MB, Compiled Graph": lambda: line.call(requests.RELEASE, large()),
        "4 MB, Ray alone": lambda: ray.get(worker.actor.echo.remote(raw["4 MB"])),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    with no_gc():
        for turn in range(times + 10):
            for name, way in ways.items():
                begun = time.perf_counter()
                way()
                if turn >= 10:
                    spent[name].append(time.perf_counter() - begun)
    line.close()
    return {name: (statistics.median(one), sorted(one)[int(len(one) * 0.99)]) for name, one in spent.items()}


if __name__ == "__main__":
    sys.exit(main())
