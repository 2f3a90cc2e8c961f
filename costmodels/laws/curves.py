"""How long a kernel takes on a processor: laws with few parameters, for many kernels at once.

A kernel costs its call, and then the smooth maximum of its arithmetic and its memory traffic. What a byte costs depends
on where it lies: an activation as far away as the kernel's own traffic reaches, a weight as far away as all that
a graph touches between two runs of the same op. From this it follows that decode (one row against all weights) is bound
by memory and prefill by arithmetic; nothing in here asks for a phase.

Every parameter is positive and is held as its logarithm. All laws are written for arrays, so that a fit can move each
parameter in one evaluation: parameters have the shape [variants, 1], kernels [kernels].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from djinn_fx.costmodels.laws.fusion import Kernel, Schedule

Array = NDArray[np.float64]

#: Kinds priced by their elements, in the order of :attr:`Batch.elements`.
PER_ELEMENT = (
    "elementwise", "copy", "fill", "random", "norm", "softmax", "reduction", "gather", "scatter", "scan", "sort",
    "pool", "resample", "fft", "other",
)  # fmt: skip
#: Sorts of kernel, each with its own cost of a call.
CLASSES = ("linear", "product", "conv", "attention", *PER_ELEMENT, "collective")
_CLASS = {name: place for place, name in enumerate(CLASSES)}
#: Rows of the left side, and the weight's shorter side, at which the speed of a product with a weight has a free
#: correction; between them it is interpolated over the logarithm. Libraries choose other kernels for narrow weights: at
#: 16 rows MKL takes 1.0 ns an element of a weight of 512 x 2048, 0.35 ns of one of 1024 x 1024 (Xeon 2.8 GHz).
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512)
NARROW = (512, 768)
#: An op on fewer elements is not shared among threads (ATen's ``at::internal::GRAIN_SIZE``).
GRAIN = 32768
#: How wide, in the logarithm of bytes, the step from one cache to the next is. Caches are not exactly LRU.
_STEP = 0.35


@dataclass(frozen=True, slots=True)
class Parameter:
    """One unknown of the laws.

    Attributes:
        name: as in the fitted data.
        guess: its value where nothing was measured; units by its group, see :data:`PARAMETERS`.
        spread: how far, in its logarithm, the truth may lie from the guess (one standard deviation).
    """

    name: str
    guess: float
    spread: float


def _parameters() -> tuple[Parameter, ...]:
    made = [
        # seconds a call: of the whole, of a view, of going parallel
        Parameter("region", 8e-6, 1.2),
        Parameter("view", 7e-7, 0.7),
        Parameter("fork", 2e-6, 1.0),
        *(Parameter(f"call.{name}", 5e-6, 0.5) for name in CLASSES),
        Parameter("call.scalar", 2e-6, 1.0),
        # seconds a byte, each level adding to the nearer ones; and bytes at which a level ends
        Parameter("byte.near", 1e-11, 0.7),
        Parameter("byte.l3", 2e-11, 0.7),
        Parameter("byte.memory", 6e-11, 0.7),
        Parameter("weight.near", 1e-11, 0.7),
        Parameter("weight.l3", 1.5e-11, 0.7),
        Parameter("weight.memory", 3e-11, 0.5),
        Parameter("size.near", 2e6, 0.5),
        Parameter("size.l3", 3e7, 0.4),
        Parameter("byte.strided", 5e-11, 0.8),
        Parameter("byte.gather", 5e-11, 0.8),
        # seconds an element on all threads
        *(Parameter(f"element.{name}", _ELEMENT_GUESS.get(name, 5e-10), 0.7) for name in PER_ELEMENT),
        Parameter("special", 2.5e-10, 0.7),
        # products: seconds an operation, seconds an element of the right side, sizes at which half the speed is lost
        Parameter("linear.operation", 5e-12, 0.4),
        Parameter("linear.right", 5e-11, 0.8),
        Parameter("linear.columns", 8.0, 0.7),
        Parameter("linear.depth", 8.0, 0.7),
        *(Parameter(f"linear.rows{rows}x{narrow}", 1.0, 0.4) for narrow in NARROW for rows in ROWS),
        Parameter("product.operation", 8e-12, 0.6),
        Parameter("product.right", 1e-10, 0.8),
        Parameter("conv.operation", 6e-12, 0.5),
        Parameter("conv.pointwise", 6e-12, 0.5),
        Parameter("conv.depthwise", 4e-11, 0.8),
        Parameter("conv.channels", 4.0, 0.8),
        Parameter("attention.operation", 5e-12, 0.5),
        Parameter("attention.block", 30.0, 0.8),
        Parameter("attention.score", 4e-10, 0.7),
        Parameter("overlap", 1.0, 0.5),
    ]
    return tuple(made)


_ELEMENT_GUESS = {
    "elementwise": 5e-11, "copy": 5e-11, "fill": 2e-11, "random": 2e-9, "norm": 3e-10, "softmax": 4e-10,
    "reduction": 5e-11, "gather": 1e-10, "sort": 2e-8,
}  # fmt: skip
PARAMETERS = _parameters()
NAMES = tuple(parameter.name for parameter in PARAMETERS)
#: How far, in its logarithm, one op may lie from what an element costs in ops of its kind.
OP_SPREAD = 0.6


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The kernels of several graphs as columns. Bytes, operations, counts; all float64.

    Attributes:
        starts: place of each graph's first kernel; every graph has one at least (see :func:`batch`).
        views: views called, by graph.
        klass: place in :data:`CLASSES`, by kernel; -1 for none, it costs nothing.
        sides: batch, rows, columns, depth of a product, by kernel [kernels, 4]; ones for the rest.
        ops: names of the ops priced by their elements that occur, and the kind of each.
        elements: by op [kernels, len(ops)].
        wide: whether the kernel is shared among threads.
        scalars: ops with a number beside a tensor: wrapping it costs.
    """

    starts: NDArray[np.intp]
    views: Array
    klass: NDArray[np.intp]
    sides: Array
    ops: tuple[tuple[str, str], ...]
    elements: Array
    wide: Array
    scalars: Array
    flops: Array
    special: Array
    weight: Array
    other: Array
    strided: Array
    gather: Array
    scores: Array
    groups: Array
    window: Array
    reach: Array

    def __len__(self) -> int:
        return len(self.starts)


def class_of(kernel: Kernel) -> str:
    """The name of the law a kernel follows; ``""`` if it costs nothing."""
    kind = kernel.kind
    if kind == "matmul":
        sides = kernel.main.sides
        return "linear" if kernel.weight_bytes and (not sides or sides[0] == 1) else "product"
    return kind if kind in _CLASS else ("" if kernel.main.costs_nothing else "other")


def _row(kernel: Kernel) -> list[float]:
    """One kernel's numbers."""
    main, name = kernel.main, class_of(kernel)
    batch, rows, columns, depth = 1.0, 1.0, 1.0, 1.0
    scores, groups, window = 0.0, 1.0, 1.0
    if main.kind == "matmul" and len(main.sides) == 4:
        batch, rows, columns, depth = map(float, main.sides)
    elif main.kind == "attention" and len(main.sides) == 7:
        count, heads, _, queries, keys, size, value = main.sides
        batch, rows, columns, depth = float(count * heads), float(queries), float(keys), float(size + value) / 2
        scores = float(count * heads * queries * keys)
    elif main.kind == "conv" and len(main.sides) == 6:
        count, outputs, inputs, parts, positions, kernel_positions = main.sides
        batch, rows, columns, depth = float(count), float(positions), float(outputs), float(inputs * kernel_positions)
        groups, window = float(parts), float(kernel_positions)
    return [
        float(_CLASS.get(name, -1)), batch, rows, columns, depth, float(kernel.matmul_flops),
        float(kernel.special_flops), float(kernel.weight_bytes), float(kernel.read_bytes + kernel.write_bytes),
        float(kernel.strided_bytes), float(kernel.gather_bytes), scores, groups, window,
        float(main.elements >= GRAIN), float(sum(map(_has_scalar, kernel.ops))),
    ]  # fmt: skip


_ELEMENT = frozenset(PER_ELEMENT)
_BINARY = frozenset(f"aten.{name}" for name in ("add", "sub", "mul", "div", "rsub"))


def _has_scalar(work: object) -> bool:
    """Whether an op of two operands read one tensor only: the other is a number."""
    kind, op = getattr(work, "kind", ""), getattr(work, "op", "")
    if kind != "elementwise" or op not in _BINARY:
        return False
    read, write = getattr(work, "read_bytes", 0) + getattr(work, "weight_bytes", 0), getattr(work, "write_bytes", 0)
    return bool(read <= write)


_NO_KERNEL = [-1.0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]


def batch(schedules: Sequence[Schedule]) -> Batch:
    """The columns of several graphs' kernels. A graph without a kernel gets one that costs nothing."""
    rows: list[list[float]] = []
    places: dict[tuple[str, str], int] = {}
    counted: list[tuple[int, int, int]] = []
    starts: list[int] = []
    reach: list[float] = []
    for schedule in schedules:
        starts.append(len(rows))
        for kernel in schedule.kernels:
            for work in kernel.ops:
                if work.kind in _ELEMENT:
                    counted.append((len(rows), places.setdefault((work.op, work.kind), len(places)), work.elements))
            rows.append(_row(kernel))
        if len(rows) == starts[-1]:
            rows.append(_NO_KERNEL)
        # What lies between two runs of an op: all weights, and activations, which take turns in the same memory.
        weights = sum(kernel.weight_bytes for kernel in schedule.kernels)
        largest = max((kernel.read_bytes + kernel.write_bytes for kernel in schedule.kernels), default=0)
        reach += [float(max(1, weights + largest))] * (len(rows) - starts[-1])
    table = np.asarray(rows, dtype=np.float64)
    elements = np.zeros((len(rows), len(places)))
    if counted:
        where = np.asarray(counted)
        np.add.at(elements, (where[:, 0], where[:, 1]), where[:, 2])
    return Batch(
        starts=np.asarray(starts, dtype=np.intp),
        views=np.asarray([schedule.views for schedule in schedules], dtype=np.float64),
        klass=table[:, 0].astype(np.intp),
        sides=table[:, 1:5],
        ops=tuple(places),
        elements=elements,
        flops=table[:, 5],
        special=table[:, 6],
        weight=table[:, 7],
        other=table[:, 8],
        strided=table[:, 9],
        gather=table[:, 10],
        scores=table[:, 11],
        groups=table[:, 12],
        window=table[:, 13],
        wide=table[:, 14],
        scalars=table[:, 15],
        reach=np.asarray(reach, dtype=np.float64),
    )


def graph_seconds(columns: Batch, logs: Array, threads: int, names: Sequence[str] = NAMES) -> Array:
    """Seconds of each graph [variants, graphs].

    Args:
        columns: the graphs.
        logs: logarithms of the parameters [variants, len(names)].
        threads: how many share a wide kernel.
        names: of the parameters: :data:`NAMES`, then any number of ``op.<name>``, factors on an op's elements.
    """
    values = _by_name(logs, names)
    per_kernel = kernel_seconds(columns, logs, threads, names)
    sums = np.add.reduceat(per_kernel, columns.starts, axis=1)
    total: Array = sums + values["region"] + values["view"] * columns.views
    return total


def kernel_seconds(columns: Batch, logs: Array, threads: int, names: Sequence[str] = NAMES) -> Array:
    """Seconds of each kernel [variants, kernels], its call included."""
    values = _by_name(logs, names)
    shared = np.where(columns.wide > 0, 1.0, float(threads))  # element rates are those of all threads together
    loops = np.zeros((logs.shape[0], len(columns.klass)))
    if columns.ops:
        rates = [values[f"element.{kind}"] * values.get(f"op.{op}", 1.0) for op, kind in columns.ops]
        loops += np.concatenate(rates, axis=1) @ columns.elements.T
    loops += values["special"] * columns.special
    loops += values["byte.gather"] * columns.gather + values["byte.strided"] * columns.strided
    arithmetic = loops * shared + _products(columns, values, threads)
    memory = _level(columns.other, columns.other + columns.weight, "byte", values) + _level(
        columns.weight, columns.reach, "weight", values
    )
    power = 1.0 + values["overlap"]
    work = (arithmetic**power + memory**power) ** (1.0 / power)
    real = columns.klass >= 0
    calls = np.zeros_like(work)
    for place, name in enumerate(CLASSES):
        here = columns.klass == place
        if here.any():
            calls += values[f"call.{name}"] * here
    calls += values["fork"] * columns.wide * (threads > 1) + values["call.scalar"] * columns.scalars
    result: Array = (work + calls) * real
    return result


def _by_name(logs: Array, names: Sequence[str]) -> Mapping[str, Array]:
    values = np.exp(logs)
    return {name: values[:, place : place + 1] for place, name in enumerate(names)}


def _level(nbytes: Array, reach: Array, what: str, values: Mapping[str, Array]) -> Array:
    """Seconds of moving bytes that lie as far away as ``reach`` bytes go."""
    distance = np.log(np.maximum(reach, 1.0))
    cost = values[f"{what}.near"] + values[f"{what}.l3"] * _sigmoid((distance - np.log(values["size.near"])) / _STEP)
    cost = cost + values[f"{what}.memory"] * _sigmoid((distance - np.log(values["size.l3"])) / _STEP)
    result: Array = cost * nbytes
    return result


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def _products(columns: Batch, values: Mapping[str, Array], threads: int) -> Array:
    """Arithmetic of products, convolutions and attention."""
    batches, rows, width, depth = columns.sides.T
    total = np.zeros((values["region"].shape[0], len(columns.klass)))
    linear = columns.klass == _CLASS["linear"]
    if linear.any():
        plain = values["linear.operation"] * columns.flops + values["linear.right"] * (width * depth)
        edges = (1.0 + values["linear.columns"] / width) * (1.0 + values["linear.depth"] / depth)
        total += np.where(linear, plain * edges * _shape_correction(rows, np.minimum(width, depth), values), 0.0)
    product = columns.klass == _CLASS["product"]
    if product.any():
        plain = values["product.operation"] * columns.flops + values["product.right"] * (batches * width * depth)
        total += np.where(product, plain, 0.0)
    conv = columns.klass == _CLASS["conv"]
    if conv.any():
        inputs = depth / columns.window  # of one group
        dense = np.where(columns.window > 1, values["conv.operation"], values["conv.pointwise"])
        rate = np.where(
            (columns.groups > 1) & (inputs <= 1),
            values["conv.depthwise"],
            dense * (1.0 + values["conv.channels"] / inputs),
        )
        total += np.where(conv, rate * columns.flops, 0.0)
    attention = columns.klass == _CLASS["attention"]
    if attention.any():
        teams = np.maximum(1.0, np.minimum(float(threads), batches * np.ceil(rows / 32.0)))
        plain = (
            values["attention.operation"] * columns.flops * (1.0 + values["attention.block"] / _query_block(rows))
            + values["attention.score"] * columns.scores
        )
        total += np.where(attention, plain * threads / teams, 0.0)
    return total


def _query_block(queries: Array) -> Array:
    """Queries that ATen's flash attention on the CPU multiplies at a time (FlashAttentionKernel.cpp, q_split_size)."""
    result: Array = np.minimum(queries, np.where(queries >= 768, 256.0, np.where(queries >= 192, 64.0, 32.0)))
    return result


def _shape_correction(rows: Array, narrow: Array, values: Mapping[str, Array]) -> Array:
    """The free part of a product's speed by its shape, interpolated between :data:`ROWS` and :data:`NARROW`."""
    across, share_across = _between(narrow, NARROW)
    along, share = _between(rows, ROWS)
    grid = np.stack(
        [np.concatenate([values[f"linear.rows{count}x{side}"] for count in ROWS], axis=1) for side in NARROW], axis=1
    )
    logs = np.log(grid)  # [variants, narrow, rows]
    low, high = (
        logs[:, across + step, along] * (1.0 - share) + logs[:, across + step, along + 1] * share for step in (0, 1)
    )
    result: Array = np.exp(low * (1.0 - share_across) + high * share_across)
    return result


def _between(sizes: Array, knots: Sequence[int]) -> tuple[NDArray[np.intp], Array]:
    """The knot below each size, and how far it is on the way to the next, over the logarithm."""
    places = np.arange(len(knots), dtype=np.float64)
    place = np.interp(np.log(np.maximum(sizes, 1.0)), np.log(np.asarray(knots, dtype=np.float64)), places)
    lower = np.minimum(place.astype(np.intp), len(knots) - 2)
    return lower, place - lower
