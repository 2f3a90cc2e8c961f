"""A pipeline over two devices of one core, against one core and against two processes that do the halves at once.

Each side is a process of its own. In a round a batch of micro-batches goes through the pipeline, through one core, and
the two halves run in two processes at the same time: what no pipeline can be faster than on this machine, since both
cores share caches and memory in it too. Halves are the pipeline's own regions on inputs that were kept. The makespan is
foretold from what each half takes by itself, and by the plan: a process that ran the model before has measured the
regions, and left their times in the cache that all sides share. With ``--link`` values pass over a declared link.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import djinn_fx
from bench.harness.harness import Report, fresh_caches, parse, parser, ratio, successive, table
from bench.harness.models import MODELS, build
from bench.harness.standing import Standing
from djinn_fx.runtime.devices.executor import Runnable, Spread
from djinn_fx.runtime.sampled import Sampled

#: Two devices of one core each.
DEVICES = {"cpu:0": {"cores": [0]}, "cpu:1": {"cores": [1]}}
_MODEL = "bench.placement.run:Model"
SIDES = ("pipeline", "one core", "first half", "second half")
#: Micro-batches of a round.
BATCHES = 64
#: The pipeline's throughput as a multiple of one core's and as a share of two processes'; error of a makespan.
GAIN, SHARE, ERROR = 1.6, 0.93, 0.10


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=2)
    made.add_argument("--models", nargs="+", default=["vit"], choices=MODELS)
    made.add_argument("--engine", default="auto", help="as the setting of that name")
    made.add_argument("--link", help="bandwidth between the devices, such as 10MB/s; none: values are handed over")
    arguments = parse(made, argv)
    report = Report("placement-run", arguments)
    for name in arguments.models:
        _model(report, name, arguments)
    return report.finish()


class Model:
    """A model compiled for some devices, in a process of its own.

    Args:
        name: of the model.
        quick: its small form.
        engine: the setting.
        devices: their names.
        link: bandwidth between them; None: values are handed over.
        memory_bytes: what each may hold; None: without limit.
        pin: as the setting.
        calls: before anything is measured; as many as end trials between engines.
    """

    def __init__(
        self,
        name: str,
        quick: bool,
        engine: str,
        devices: Sequence[str],
        link: str | None = None,
        memory_bytes: int | None = None,
        pin: Mapping[str, str] | None = None,
        calls: int = 40,
    ) -> None:
        self.model, self.inputs, _ = build(name, quick)
        torch.set_num_threads(1)
        options = {
            "devices": {one: {**DEVICES[one], **_memory(memory_bytes)} for one in devices},
            "pin": pin,
            "objective": "throughput",
            "engine": engine,
            "verify": "off",
        }
        if link is not None and len(devices) > 1:
            options["links"] = {"-".join(devices): {"bandwidth": link, "latency": "100us"}}
        self._run = torch.compile(self.model, backend="djinn", options=options)
        with torch.no_grad():
            for _ in range(calls):
                self._run(**self.inputs)
        self._kept: dict[int, list[list[Any]]] = {}

    def batches(self, count: int) -> float:
        """Seconds for so many batches."""
        with torch.no_grad():
            begun = time.perf_counter()
            for _ in djinn_fx.pipeline(self._run, [self.inputs] * count):
                pass
            return time.perf_counter() - begun

    def planned(self) -> dict[str, Any]:
        """What the plan says: seconds of each device and of what passes for one batch, and what serves."""
        plan = djinn_fx.compilations()[-1].plan
        shares = plan.placement.shares if plan.placement is not None else ()
        return {
            "seconds": {share.device: share.time_s for share in shares},
            "times": sorted({region.cost.provenance for region in plan.regions}),
            "moves": sum(one.time_s for one in plan.placement.passages) if plan.placement is not None else 0.0,
            "transfers": len(plan.transfers),
            "status": str(djinn_fx.status(self._run))[:400],
        }

    def calls(self, count: int) -> list[float]:
        """Seconds of so many calls, one after the other."""
        found = []
        with torch.no_grad():
            for _ in range(count):
                begun = time.perf_counter()
                self._run(**self.inputs)
                found.append(time.perf_counter() - begun)
        return found

    def keep(self) -> int:
        """Keep what each half's regions are given. How many stretches there are."""
        spread = self._spread()
        whole = spread.stretches
        spread.stretches = tuple(self._keeping(place, one) for place, one in enumerate(whole))
        with torch.no_grad():
            while not all(self._kept.values()):
                self._run(**self.inputs)
        spread.stretches = whole
        return len(whole)

    def half(self, device: str, count: int) -> float:
        """Seconds for so many batches of one device's regions alone, in its thread."""
        spread = self._spread()
        mine = [(place, one) for place, one in enumerate(spread.stretches) if one.stretch.device == device]
        found: list[float] = []
        over = threading.Event()

        def work() -> None:
            with torch.no_grad():
                begun = time.perf_counter()
                for _ in range(count):
                    for place, one in mine:
                        for step, given in zip(one.steps, self._kept[place], strict=True):
                            step[0](list(given))
                found.append(time.perf_counter() - begun)
            over.set()

        assert mine[0][1].thread.submit(work)
        over.wait()
        return found[0]

    def _spread(self) -> Spread:
        sampled = next((one for one in gc.get_objects() if type(one) is Sampled), None)
        if sampled is not None:  # now and then it goes by another one, with clocks
            return sampled._run
        return next(one for one in gc.get_objects() if type(one) is Spread)

    def _keeping(self, place: int, one: Runnable) -> Runnable:
        if not one.steps:  # what passes over a link
            return one
        kept = self._kept[place] = []

        def keeping(run: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
            def noted(args: list[Any]) -> Any:
                kept.append(list(args))
                return run(args)

            return noted

        return replace(one, steps=tuple((keeping(step[0]), *step[1:]) for step in one.steps))


def _memory(nbytes: int | None) -> dict[str, str]:
    return {"memory": f"{nbytes}B"} if nbytes is not None else {}


def _model(report: Report, name: str, arguments: argparse.Namespace) -> None:
    count = 16 if arguments.quick else BATCHES
    given = {"name": name, "quick": arguments.quick, "engine": arguments.engine, "link": arguments.link}
    with fresh_caches() as caches:
        with Standing(_MODEL, {**given, "devices": list(DEVICES)}, caches, name="before") as before:
            report.fact(f"{name}, plan before its regions were measured", before.ask("planned"))
        sides = {}
        for side in SIDES:
            devices = ["cpu:0"] if side == "one core" else list(DEVICES)
            sides[side] = Standing(_MODEL, {**given, "devices": devices}, caches, name=side)
        try:
            _rounds(report, name, sides, count, arguments.runs)
        finally:
            for side in sides.values():
                side.stop()


def _rounds(report: Report, name: str, sides: dict[str, Standing], count: int, rounds: int) -> None:
    planned = sides["pipeline"].ask("planned")
    report.fact(f"{name}, plan", planned)
    if len(planned["seconds"]) < 2:
        print(f"{name}: the plan has one device: {planned}")
        return
    for side in ("first half", "second half"):
        sides[side].ask("keep")
    sides["one core"].ask("planned")
    found: dict[str, list[float]] = {key: [] for key in ("pipeline", "one core", "halves", "first", "second", "call")}
    with ThreadPoolExecutor(2) as asking:
        for _ in range(rounds):
            found["pipeline"].append(sides["pipeline"].ask("batches", count=count))
            found["call"].append(statistics.median(sides["pipeline"].ask("calls", count=8)))
            found["one core"].append(sides["one core"].ask("batches", count=count))
            both = [
                asking.submit(sides[side].ask, "half", device=device, count=count)
                for side, device in zip(("first half", "second half"), DEVICES, strict=True)
            ]
            first, second = (one.result() for one in both)
            found["first"].append(first)
            found["second"].append(second)
            found["halves"].append(max(first, second))
    _told(report, name, found, planned, count)


def _told(report: Report, name: str, found: dict[str, list[float]], planned: dict[str, Any], count: int) -> None:
    for key, seconds in found.items():
        if seconds:
            report.measured(f"{name}, {key}", seconds, "s")
    medians = {key: statistics.median(seconds) for key, seconds in found.items() if seconds}
    gain, share = (
        report.ratio(f"{name}, {key} / pipeline", ratio(found[key], found["pipeline"]), successive(found[key]))
        for key in ("one core", "halves")
    )
    # A pipeline is filled once: the slower half of every batch, and the other half of one.
    slow, fast = max(medians["first"], medians["second"]), min(medians["first"], medians["second"])
    foretold = slow + fast / count
    error = abs(foretold / medians["pipeline"] - 1)
    loads, moves = list(planned["seconds"].values()), planned["moves"]
    one_s = sum(loads) + moves
    slowest_s = max(*loads, moves)
    by_plan = slowest_s * count + one_s - slowest_s
    rows = [[key, f"{seconds:.2f}", f"{count / seconds:.2f}"] for key, seconds in medians.items() if key != "call"]
    print("\n" + table([f"{name}, {count} batches", "s", "batches/s"], rows))
    uneven = slow / (slow + fast) * 2 - 1
    print(f"the cut is uneven by {uneven:.1%}; makespan {foretold:.2f} s by the halves, {by_plan:.2f} s by the plan")
    report.fact(f"{name}, imbalance", uneven)
    report.fact(f"{name}, makespan by the plan", by_plan)
    report.bar(f"{name}, throughput of one core", gain.median, GAIN, ">=")
    report.bar(f"{name}, throughput of two processes", share.median, SHARE, ">=")
    report.bar(f"{name}, makespan foretold by the halves", error, ERROR)
    report.bar(f"{name}, makespan foretold by the plan", abs(by_plan / medians["pipeline"] - 1), ERROR)
    report.bar(f"{name}, one call foretold by the plan", abs(one_s / medians["call"] - 1), ERROR)


if __name__ == "__main__":
    raise SystemExit(main())
