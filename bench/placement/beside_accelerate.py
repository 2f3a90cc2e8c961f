"""Two devices of one core with a budget each, against Accelerate's ``device_map="auto"`` with the same budgets.

Accelerate places modules on torch's devices, in memory, or on disk; it knows no two devices of one processor. So it is
given what there is: the first budget as the memory of ``cpu``, the rest on disk (``auto, disk``), as it does where one
device is too small; and, better than its own choice could be, all of the model in memory with its hooks on every module
(``hooks alone``), as if both devices had what they need and moving values cost nothing. It computes on one core at a
time, as its devices take turns in a call. Each side is a process of its own; they take turns. Graph breaks are counted
by ``torch._dynamo.explain``. Without Accelerate the bench says so and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.harness.harness import Report, fresh_caches, parse, parser, ratio, successive, table
from bench.harness.models import MODELS, build
from bench.harness.standing import Standing
from bench.placement.run import Model

#: What a device may hold of what the model's weights take.
SHARE = 0.75
#: Calls a round, and batches in a row.
CALLS, BATCHES = 8, 16
SIDES = ("djinn", "auto, disk", "hooks alone")
_HERE = "bench.placement.beside_accelerate"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=3)
    made.add_argument("--models", nargs="+", default=["llama-4"], choices=MODELS)
    made.add_argument("--engine", default="openvino", help="as the setting of that name")
    arguments = parse(made, argv)
    report = Report("placement-accelerate", arguments)
    if importlib.util.find_spec("accelerate") is None:
        print("accelerate is not installed: nothing is measured")
        report.fact("accelerate", None)
        return report.finish()
    for name in arguments.models:
        _model(report, name, arguments)
    return report.finish()


class Djinn(Model):
    """The model over two devices, each with its budget."""

    def __init__(self, name: str, quick: bool, engine: str, memory_bytes: int) -> None:
        super().__init__(name, quick, engine, ["cpu:0", "cpu:1"], memory_bytes=memory_bytes)

    def breaks(self) -> int:
        """Graph breaks of the model."""
        return breaks_of(self.model, self.inputs)

    def devices(self) -> list[str]:
        """Those that have something to do."""
        return sorted(self.planned()["seconds"])


class Accelerated:
    """The model as Accelerate dispatches it, on one core at a time."""

    def __init__(self, name: str, quick: bool, memory_bytes: int | None) -> None:
        import accelerate

        self.model, self.inputs, _ = build(name, quick)
        torch.set_num_threads(1)
        self._folder = tempfile.TemporaryDirectory(prefix="offload-")
        if memory_bytes is None:
            self.map = {child: "cpu" for child, _ in self.model.named_children()}
            accelerate.dispatch_model(self.model, self.map, force_hooks=True)
            return
        kept = list(getattr(self.model, "_no_split_modules", None) or [])
        given: dict[int | str, int | str] = {"cpu": memory_bytes, "disk": 10**12}
        self.map = accelerate.infer_auto_device_map(self.model, given, no_split_module_classes=kept)
        accelerate.dispatch_model(self.model, self.map, main_device="cpu", offload_dir=self._folder.name)

    def calls(self, count: int) -> list[float]:
        """Seconds of so many calls, one after the other."""
        found = []
        with torch.no_grad():
            for _ in range(count):
                begun = time.perf_counter()
                self.model(**self.inputs)
                found.append(time.perf_counter() - begun)
        return found

    def batches(self, count: int) -> float:
        """Seconds for so many batches."""
        return sum(self.calls(count))

    def breaks(self) -> int:
        """Graph breaks of the dispatched model."""
        return breaks_of(self.model, self.inputs)

    def devices(self) -> list[str]:
        """Where its modules are."""
        return sorted({str(one) for one in self.map.values()})


def breaks_of(model: Any, inputs: dict[str, Any]) -> int:
    """Graph breaks under ``torch.compile``."""
    torch._dynamo.reset()
    with torch.no_grad():
        return int(torch._dynamo.explain(model)(**inputs).graph_break_count)


def _model(report: Report, name: str, arguments: argparse.Namespace) -> None:
    model, _, _ = build(name, arguments.quick)
    held = sum({one.untyped_storage().data_ptr(): one.nbytes for one in model.parameters()}.values())
    given = {"name": name, "quick": arguments.quick}
    budget = int(held * SHARE)
    made = {
        "djinn": ("Djinn", {**given, "engine": arguments.engine, "memory_bytes": budget}),
        "auto, disk": ("Accelerated", {**given, "memory_bytes": budget}),
        "hooks alone": ("Accelerated", {**given, "memory_bytes": None}),
    }
    with fresh_caches() as caches:
        sides = {side: Standing(f"{_HERE}:{kind}", wanted, caches, name=side) for side, (kind, wanted) in made.items()}
        try:
            _measured(report, name, sides, arguments.runs)
        finally:
            for side in sides.values():
                side.stop()


def _measured(report: Report, name: str, sides: dict[str, Standing], rounds: int) -> None:
    call: dict[str, list[float]] = {side: [] for side in SIDES}
    batches: dict[str, list[float]] = {side: [] for side in SIDES}
    devices = {side: sides[side].ask("devices") for side in SIDES}
    for side in SIDES:
        sides[side].ask("calls", count=2)
    for _ in range(rounds):
        for side in SIDES:
            call[side].append(statistics.median(sides[side].ask("calls", count=CALLS)))
            batches[side].append(sides[side].ask("batches", count=BATCHES))
    breaks = {side: sides[side].ask("breaks") for side in SIDES}
    rows = [
        [
            side,
            ", ".join(devices[side]),
            f"{statistics.median(call[side]) * 1e3:.1f}",
            f"{BATCHES / statistics.median(batches[side]):.1f}",
            str(breaks[side]),
        ]
        for side in SIDES
    ]
    print("\n" + table([name, "devices", "ms a call", "batches/s", "graph breaks"], rows))
    report.fact(f"{name}, graph breaks", breaks)
    report.fact(f"{name}, devices", devices)
    for side in SIDES:
        report.measured(f"{name}, {side}, call", call[side], "s")
        report.measured(f"{name}, {side}, {BATCHES} batches", batches[side], "s")
    for side in SIDES[1:]:
        for what, found in (("call", call), (f"{BATCHES} batches", batches)):
            gain = report.ratio(
                f"{name}, {what}, {side} / djinn", ratio(found[side], found["djinn"]), successive(found[side])
            )
            report.bar(f"{name}, {what}, against {side}", gain.median, 1.0, ">=")
    report.bar(f"{name}, graph breaks", breaks["djinn"], 0)


if __name__ == "__main__":
    raise SystemExit(main())
