"""What it costs to notice writes into weights: protecting, looking, and what that adds to a call.

    python bench/engines/weights.py --json bench/results/weights.json         # a few minutes, 3 GB
    python bench/engines/weights.py --quick

A deep model on packed weights is called in one process, in turn without any look at its weights, with the kernel's
write protection, and with comparing in turns as where the kernel cannot tell. A look is timed by itself in each of
these calls: it is a thousandth of them, which the difference of two calls does not show.
"""

from __future__ import annotations

import mmap
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.harness.harness import Report, no_gc, parse, parser, ratio, successive, table
from djinn_fx.engines.bound import write_protection
from djinn_fx.engines.bound.holders import SWEEPERS
from djinn_fx.engines.bound.watch import Watch

LAYERS, ROWS = 100, 8
#: Bars of the issue that this bench is for: shares of a call.
ADDED, ADDED_COMPARING = 0.01, 0.02
#: Bytes that are protected and looked at.
BYTES, QUICK_BYTES = 400_000_000, 100_000_000


class Deep(nn.Module):
    """Layers of two linears with what stands between them in a Transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(LAYERS))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(LAYERS))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        return x


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=3), argv)
    report = Report("weights", arguments)
    if write_protection.table() is None:
        print(f"this kernel does not tell of writes: {write_protection.why_not()}")
    looks(report, QUICK_BYTES if arguments.quick else BYTES, arguments.runs)
    huge_pages(report, arguments.runs)
    steps(report, 6 if arguments.quick else 20)
    calls(report, width=256 if arguments.quick else 640, count=200 if arguments.quick else 200 * arguments.runs)
    return report.finish()


def timed(work: Callable[[], Any]) -> float:
    """Seconds of some work."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


# -- protecting and looking --------------------------------------------------------------------------------------------


def looks(report: Report, size: int, runs: int) -> None:
    """Protecting some memory, looking at it, and reading it in full, which is what it spares."""
    rows = []
    for told in ways():
        with told_or_not(told):
            weight = torch.randn(size // 4)
            samples: dict[str, list[float]] = {}
            for _ in range(3 * runs):
                kept: list[Watch] = []
                samples.setdefault("watch", []).append(timed(lambda: kept.append(Watch([weight]))))  # noqa: B023
                samples.setdefault("look", []).extend(timed(lambda: kept[0].holds([weight])) for _ in range(50))  # noqa: B023
                samples.setdefault("sum", []).append(timed(weight.sum))
            for what, seconds in samples.items():
                name = f"{what} {'protected' if told else 'compared'}"
                rows.append([name, f"{1e3 * report.measured(name, seconds, 's'):.3f}"])
    print(f"\n{size / 1e6:.0f} MB\n" + table(["", "ms"], rows), flush=True)


def huge_pages(report: Report, runs: int) -> None:
    """A product with a weight on huge pages before and while it is protected, and after a write into each page."""
    if write_protection.table() is None:
        return
    rows, size = 2048, 2048 * 2048 * 4
    area = mmap.mmap(-1, size + (4 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(area, np.uint8)
    start = -whole.ctypes.data % (2 << 20)
    weight = torch.from_numpy(whole[start : start + size].view(np.float32)).view(rows, rows)
    weight.normal_()
    x = torch.randn(8, rows)

    def products() -> list[float]:
        return [timed(lambda: x @ weight.t()) for _ in range(40 * runs)]

    found = {"plain": products()}
    watch = Watch([weight])
    found["protected"] = products()
    assert watch.holds([weight]), "reading is no write"
    weight.mul_(1.0)
    found["written"] = products()
    lines = [[name, f"{1e3 * report.measured(f'product {name}', s, 's'):.3f}"] for name, s in found.items()]
    print("\na product with 2048 x 2048 weights on huge pages\n" + table(["", "ms"], lines), flush=True)


def steps(report: Report, count: int) -> None:
    """AdamW on memory that is protected anew before each step, against the same without."""
    weights = [nn.Parameter(torch.randn(1024, 1024)) for _ in range(8)]
    for one in weights:
        one.grad = torch.randn_like(one)
    optimizer = torch.optim.AdamW(weights, lr=1e-6)
    optimizer.step()
    plain, protected = [], []
    for _ in range(count):
        plain.append(timed(optimizer.step))
        watch = Watch(weights)
        protected.append(timed(optimizer.step))
        del watch
    found = report.ratio("adamw protected/plain", ratio(protected, plain), successive(plain))
    print(f"\nAdamW on {8 * 1024 * 1024 * 4 / 1e6:.0f} MB, protected/plain: {found.median:.2f}", flush=True)


# -- calls -------------------------------------------------------------------------------------------------------------


def calls(report: Report, *, width: int, count: int) -> None:
    """What a look adds to a call of a deep model."""
    torch.manual_seed(0)
    model, x = Deep(width).eval().requires_grad_(False), torch.randn(ROWS, width)
    compiled = torch.compile(model, backend="djinn", options={"engine": "packed", "cache_limit": "0", "verify": "off"})
    rows = []
    for told in ways():
        with told_or_not(told), torch.no_grad():
            look_s, with_s, without_s = in_turn(lambda: compiled(x), count)
        name = "protected" if told else "compared"
        median = report.measured(f"call, {name}, without", without_s, "s")
        report.measured(f"call, {name}, with", with_s, "s")
        look = report.measured(f"look, {name}", look_s, "s")
        # Reading in turns does nothing in one call and more in the next: the mean is what it costs.
        added = look if told else statistics.fmean(look_s)
        difference = statistics.median([a - b for a, b in zip(with_s, without_s, strict=True)])
        rows.append([name, *(f"{1e6 * s:.0f}" for s in (added, difference, median)), f"{added / median:.2%}"])
        report.bar(f"share of a call, {name}", added / median, ADDED if told else ADDED_COMPARING)
    headers = ["us a call", "look", "with less without", "call", "share"]
    print(f"\n{LAYERS} layers of width {width}, {ROWS} rows, {count} calls\n" + table(headers, rows), flush=True)


def _looks(call: Callable[[], Any]) -> bool:
    """Whether a call looks at its weights: it is answered by the engine, not by own ops while that is made ready."""
    looking, here, looked = Watch.unchanged, threading.get_ident(), []

    def noting(self: Watch, *given: Any) -> bool:
        looked.append(threading.get_ident())
        return looking(self, *given)

    Watch.unchanged = noting  # type: ignore[method-assign]
    try:
        call()
    finally:
        Watch.unchanged = looking  # type: ignore[method-assign]
    return here in looked


def in_turn(call: Callable[[], Any], count: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds that each call looked, that it took in all, and that a call without looks took, in turn.

    A call may look more than once: after something else was tried, or where the kernel took pages away.
    """
    for one in SWEEPERS:
        one.release()  # packed under the other way
    until = time.monotonic() + 60.0
    while not any(one.memory_bytes for one in SWEEPERS) and time.monotonic() < until:
        call()  # beside which they are packed anew
        time.sleep(0.01)
    for _ in range(8):
        call()
    while not _looks(call) and time.monotonic() < until:
        time.sleep(0.01)  # on a busy machine packing takes longer
    looking, here = Watch.unchanged, threading.get_ident()
    looks_s: list[float] = []
    of_call_s: list[float] = []

    def timing(self: Watch, weights: Sequence[Tensor]) -> bool:
        begun = time.perf_counter()
        found = looking(self, weights)
        if threading.get_ident() == here:  # others of this process may be packing in the background
            of_call_s.append(time.perf_counter() - begun)
        return found

    found: dict[bool, list[float]] = {True: [], False: []}
    try:
        with no_gc():
            for number in range(count):
                for looks_now in (True, False) if number % 2 else (False, True):
                    Watch.unchanged = timing if looks_now else lambda *_: True  # type: ignore[method-assign]
                    found[looks_now].append(timed(call))
                    if looks_now:
                        assert of_call_s, "a call without a look at its weights"
                        looks_s.append(sum(of_call_s))
                        of_call_s.clear()
    finally:
        Watch.unchanged = looking  # type: ignore[method-assign]
    return looks_s, found[True], found[False]


def ways() -> tuple[bool, ...]:
    """With the kernel's word, where it gives one, and without."""
    return (True, False) if write_protection.table() is not None else (False,)


def told_or_not(told: bool) -> AbstractContextManager[None]:
    """Take the kernel's word, or do without."""
    return nullcontext() if told else write_protection.switched_off()


if __name__ == "__main__":
    sys.exit(main())
