"""What standing guard costs a call: counting, the look at results, and checks of arguments, on and off in turn.

    python bench/engines/guard.py --json bench/results/guard.json
    python bench/engines/guard.py --cases bert/encode --engines packed
    python bench/engines/guard.py --quick

Each model is compiled once, in this process; its calls take turns with everything switched on and off, so that the
two share the machine's moods. The figure is the median of the differences of neighbours, as microseconds and as a share
of the median call. Conditions inside a compiled graph cannot be switched off: how many there are is told. See
bench/README.md.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import djinn_fx
from bench.engines.models import CASES, QUICK_CASES, workload
from bench.harness.children import fresh_caches
from bench.harness.harness import Report, no_gc, parse, parser, rotated, table
from djinn_fx.engines.inductor.safe import SafeCall
from djinn_fx.errors import DjinnError
from djinn_fx.guard.guarded import GuardedRegion

DEFAULT_CASES = ("opt/prefill", "opt/decode", "bert/encode", "vit/encode")
ENGINES, QUICK_ENGINES = ("packed", "inductor"), ("packed",)
#: Pairs of calls; at least 200 for a figure.
PAIRS, QUICK_PAIRS = 400, 200
#: The most that it may take, as a share of a call.
BOUND = 0.01


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = _arguments(argv)
    report, rows = Report("guard", arguments), []
    shares = []
    for case in arguments.cases:
        for engine in arguments.engines:
            found = measure(case, engine, arguments.quick)
            for name in ("on", "off"):
                report.measured(f"{case} {engine} {name}", found[name], "s")
            added_s = statistics.median(a - b for a, b in zip(found["on"], found["off"], strict=True))
            noise_s = statistics.median(a - b for a, b in zip(found["off"][1:], found["off"], strict=False))
            call_s = statistics.median(found["off"])
            shares.append(added_s / call_s)
            report.fact(f"{case} {engine}", {key: found[key] for key in ("guards", "checks", "flags")})
            rows.append(
                [f"{case} {engine}", f"{1e3 * call_s:.2f}", f"{1e6 * added_s:.1f}", f"{1e6 * noise_s:.1f}",
                 f"{added_s / call_s:.2%}", found["guards"], found["checks"], found["flags"]]
            )  # fmt: skip
            print(
                table(["", "ms", "added us", "noise us", "share", "guards", "checks", "flags"], rows[-1:]), flush=True
            )
    print(table(["", "ms", "added us", "noise us", "share", "guards", "checks", "flags"], rows))
    # A narrow model's call takes a fraction of a millisecond: what is fixed is a larger share of it.
    report.bar("largest share of a call", None if arguments.quick else max(shares), BOUND)
    report.bar("median share of a call", None if arguments.quick else statistics.median(shares), BOUND)
    return report.finish()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__ or "", runs=1)
    words = lambda text: tuple(filter(None, text.split(",")))  # noqa: E731
    made.add_argument("--cases", type=words, metavar="A,B", help=f"of bench/engines/engines.py: {', '.join(CASES)}")
    made.add_argument("--engines", type=words, metavar="A,B", help="engines, each alone")
    arguments = parse(made, argv)
    arguments.cases = arguments.cases or (QUICK_CASES[:1] if arguments.quick else DEFAULT_CASES)
    arguments.engines = arguments.engines or (QUICK_ENGINES if arguments.quick else ENGINES)
    return arguments


def measure(case: str, engine: str, quick: bool) -> dict[str, Any]:
    """Seconds of calls in pairs, and what stands before them."""
    torch.compiler.reset()
    with fresh_caches() as caches, torch.no_grad():
        work = workload(case, 1, quick)
        options: dict[str, Any] = {"engine": engine, "cache_dir": str(caches.djinn), "cost_model": "calibrated"}
        compiled = torch.compile(work.module, backend="djinn", options=options)
        for _ in range(12):  # the tenth call is compared
            work.reset()
            compiled(*work.inputs)
        try:
            djinn_fx.wait_until_ready(compiled, timeout=60)
        except DjinnError as error:
            print(f"  {case} on {engine}: {error}")
        guards, calls = list(_alive(GuardedRegion)), list(_alive(SafeCall))
        switch = _switch(guards, calls)
        found: dict[str, Any] = {"on": [], "off": []}
        with no_gc():
            for turn in range(QUICK_PAIRS if quick else PAIRS):
                for name in rotated(("on", "off"), turn):
                    switch(name == "on")
                    work.reset()
                    start = time.perf_counter()
                    compiled(*work.inputs)
                    found[name].append(time.perf_counter() - start)
        switch(True)
    checks = sum(len(one._needs.program.checks) for one in calls)
    return {**found, "guards": len(guards), "checks": checks, "flags": sum(bool(one._needs.results) for one in calls)}


def _alive(kind: type) -> Iterator[Any]:
    return (one for one in gc.get_objects() if type(one) is kind)


def _switch(guards: Sequence[Any], calls: Sequence[Any]) -> Callable[[bool], None]:
    checks = [one._checked for one in calls]

    def switch(on: bool) -> None:
        for guard in guards:
            guard.trusted = None if on else guard._run
            for shape in guard._shapes.values():
                shape.due = float("inf")  # what is due is not measured here: three calls of a thousand
        for one, check in zip(calls, checks, strict=True):
            one._checked = check if on else None

    return switch


if __name__ == "__main__":
    sys.exit(main())
