"""Which way of multiplying by a weight is the fastest on this machine: measured once a shape, and remembered.

Whether MKL, oneDNN or torch's plain product wins differs between processors that carry the same name, so nothing is
decided by a name. The figures are kept in ``product-speed.json`` in the cache folder, apart for each machine, number of
threads and torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from djinn_fx.engines.here import here_digest
from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.conv import ConvShape, conv_ways
from djinn_fx.files.private import write_atomic
from djinn_fx.files.signing import seal
from djinn_fx.store.files import read_record
from djinn_fx.threads import new_lock

log = logging.getLogger("djinn_fx.engines.packed.speed")

FILE = "product-speed.json"
SCHEMA = 1
#: A packed weight is a second copy of it: taken only where it saves more than this share of the time.
MARGIN = 0.05
#: The packed ways. MKL's copy takes up to 2.5 times the weight's size, and no other graph can have it too.
_BY_MEMORY = ("onednn", "mkl")
#: A measurement of one shape stops after this time, in seconds, unless each way had only MIN_ROUNDS turns, or a way
#: has just become faster by more than MARGIN (others use the processor too): then it goes on, to four times as long.
_BUDGET_S, _MIN_ROUNDS, _MAX_ROUNDS = 0.04, 3, 24
#: Weights that take turns, so that they come from memory as in a model, are this many bytes together, in at most 4.
_COLD_BYTES, _MAX_COPIES = 24_000_000, 4
#: Larger products are measured as parts of them: rows and bytes of weight.
_MAX_ROWS, _MAX_WEIGHT_BYTES = 512, 12_000_000
_MAX_FILE_BYTES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A product: ``[m, k] @ [k, n]``, plus a bias or not, and what follows it."""

    m: int
    k: int
    n: int
    dtype: torch.dtype
    bias: bool
    after: str = "none"

    def measured(self) -> Shape:
        """The product that stands for this one: less where that tells enough."""
        columns = max(64, _MAX_WEIGHT_BYTES // (self.k * self.dtype.itemsize) // 64 * 64)
        n = min(self.n, columns)
        return Shape(m=min(self.m, _MAX_ROWS), k=self.k, n=n, dtype=self.dtype, bias=self.bias, after=self.after)

    def text(self) -> str:
        """A name in the file."""
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.m}x{self.k}x{self.n} {kind}{' bias' if self.bias else ''} {self.after}"


class ProductSpeed:
    """Answers which way a product is to be done.

    Args:
        folder: where the figures are kept; None: in memory only.
        measure: gives each way's seconds for a shape; for tests.
    """

    def __init__(self, folder: Path | None, measure: Callable[[Any], dict[str, float]] | None = None) -> None:
        self._path = folder / FILE if folder is not None else None
        self._measure = measure if measure is not None else measure_product
        self._lock = new_lock()
        self._known: dict[str, dict[str, float]] = {}
        self._read: set[str] = set()

    def best(self, shape: Shape | ConvShape) -> str:
        """``"aten"``, ``"mkl"`` or ``"onednn"``: the fastest; one with more memory only by over ``MARGIN``."""
        seconds = self.seconds(shape)
        found = "aten"
        for way in _BY_MEMORY:
            if way in seconds and seconds[way] < seconds[found] * (1 - MARGIN):
                found = way
        return found

    def seconds(self, shape: Shape | ConvShape) -> dict[str, float]:
        """Each way's time for what stands for the shape, measured now if it is not known."""
        measured = shape.measured()
        machine = here_digest()
        name = f"{machine} {measured.text()}"
        with self._lock:
            if machine not in self._read:
                self._read.add(machine)
                for text, entry in self._from_file(machine).items():
                    self._known.setdefault(f"{machine} {text}", entry)
            if name not in self._known:
                self._known[name] = self._measure(measured)
                self._keep(machine, measured.text(), self._known[name])
            return self._known[name]

    def _from_file(self, machine: str) -> dict[str, dict[str, float]]:
        data = self._file()
        entries = data["machines"].get(machine, {})
        return {text: entry for text, entry in entries.items() if _is_entry(entry)} if isinstance(entries, dict) else {}

    def _file(self) -> dict[str, Any]:
        """What is on disk; nothing of a file that cannot be used."""
        empty: dict[str, Any] = {"schema": SCHEMA, "machines": {}}
        if self._path is None:
            return empty
        try:
            data = read_record(self._path, _MAX_FILE_BYTES, FILE)
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):
                log.info("%s is not used: %s", self._path, error)
            return empty
        fits = data.get("schema") == SCHEMA and isinstance(data.get("machines"), dict)
        return data if fits else empty

    def _keep(self, machine: str, text: str, entry: dict[str, float]) -> None:
        """Add one entry to the file. What another process adds at the same moment may be lost and measured again."""
        if self._path is None:
            return
        data = self._file()
        entries = data["machines"].get(machine)
        data["machines"][machine] = {**(entries if isinstance(entries, dict) else {}), text: entry}
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._path, [seal(FILE, data)], self._path.parent)
        except OSError as error:
            log.info("%s is not written: %s", self._path, error)


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and "aten" in entry
        and set(entry) <= {"aten", "mkl", "onednn"}
        and all(isinstance(value, float) and value > 0 for value in entry.values())
    )


def measure_product(shape: Shape | ConvShape) -> dict[str, float]:
    """Seconds of each way, on weights that take turns, the ways in turn too; the least of several rounds."""
    with packed_ops.real_values():
        ways = conv_ways(shape) if isinstance(shape, ConvShape) else _ways(shape)
        for run in ways.values():
            for turn in range(2):
                run(turn)
        seconds = dict.fromkeys(ways, float("inf"))
        began = time.perf_counter()
        copies = 1 if isinstance(shape, ConvShape) else _copies(shape)
        for number in range(_MAX_ROUNDS):
            calm = True
            for name, run in ways.items():
                start = time.perf_counter()
                for turn in range(copies):
                    run(turn)
                took = (time.perf_counter() - start) / copies
                calm = calm and took > seconds[name] * (1 - MARGIN)
                seconds[name] = min(seconds[name], took)
            spent = time.perf_counter() - began
            if number + 1 >= _MIN_ROUNDS and spent > (_BUDGET_S if calm else 4 * _BUDGET_S):
                break
        log.info("%s: %s", shape.text(), {name: f"{value * 1e6:.0f} us" for name, value in seconds.items()})
        return seconds


def _copies(shape: Shape) -> int:
    return max(2, min(_MAX_COPIES, _COLD_BYTES // max(1, shape.k * shape.n * shape.dtype.itemsize)))


def _ways(shape: Shape) -> dict[str, Callable[[int], Any]]:
    """Each way as a function of which weight's turn it is."""
    m, k, n, dtype = shape.m, shape.k, shape.n, shape.dtype
    x = torch.full((m, k), 0.5, dtype=dtype)
    weights = [torch.full((n, k), 0.01, dtype=dtype) for _ in range(_copies(shape))]
    bias = torch.full((n,), 0.1, dtype=dtype) if shape.bias else None
    other = torch.full((m, n), 0.5, dtype=dtype) if shape.after in packed_ops.BINARY else None
    then = _then(shape.after, other)
    linear = torch.nn.functional.linear
    ways: dict[str, Callable[[int], Any]] = {"aten": lambda turn: then(linear(x, weights[turn], bias))}
    if packed_ops.has_onednn(dtype):
        pack = packed_ops.pack_onednn_op()
        packed = [pack(weight, m) for weight in weights]
        if other is not None:
            both = packed_ops.run_onednn_binary_op()
            ways["onednn"] = lambda turn: both(x, other, packed[turn], bias, shape.after)
        else:
            one = packed_ops.run_onednn_op()
            _, name, algorithm = packed_ops.UNARY.get(shape.after, (None, "none", ""))
            ways["onednn"] = lambda turn: one(x, packed[turn], bias, name, [], algorithm)
    if dtype in packed_ops.MKL_TYPES and packed_ops.has_mkl():
        pack_mkl, run_mkl = packed_ops.pack_mkl_op(), packed_ops.run_mkl_op()
        kept = [pack_mkl(weight, m) for weight in weights]
        ways["mkl"] = lambda turn: then(run_mkl(x, kept[turn], weights[turn], bias, m))
    return ways


def _then(after: str, other: torch.Tensor | None) -> Callable[[torch.Tensor], Any]:
    """What follows the product where it is not fused: written over its result."""
    if after == "none":
        return lambda result: result
    native: Any = torch._C._nn
    names = {"gelu_": native.gelu_, "silu_": native.silu_, "relu_": torch.relu_, "other": other}
    text = packed_ops.IN_PLACE[after].format("result", "other")
    made: Callable[[torch.Tensor], Any] = eval(f"lambda result: {text}", names)
    return made
