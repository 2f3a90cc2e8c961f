"""Graphs of operators that look like a transformer's: heads beside each other, residual edges, a backward pass."""

from __future__ import annotations

import random
from dataclasses import replace

from djinn_fx.solvers.placement.problem import Device, Operator, Problem


def transformer(
    layers: int, heads: int, devices: int, *, training: bool = False, memory: float | None = None, seed: int = 0
) -> Problem:
    """A problem with times of its own.

    Args:
        layers: of the model.
        heads: of each layer; operators of different heads do not depend on each other.
        devices: accelerators beside one host.
        training: with a backward operator for each forward one, on the same device.
        memory: an accelerator's memory, as a share of what operators keep divided by ``devices``; None for enough.
        seed: of chance.
    """
    made = _Made(seed)
    last, mask = made.add(1.0, 30, 1.0), made.add(0.01, 0.1, 0.2)
    for _ in range(layers):
        last = _layer(made, last, mask, heads)
    made.add(3.0, 30, 0.1, last)
    operators, edges = made.operators, made.edges
    if training:
        operators, edges = _with_backward(operators, edges)
    kept = sum(one.memory_bytes for one in operators)
    room = kept * 10 if memory is None else kept / devices * memory
    there = (Device(0, room, 1.0),) * devices + (Device(1, host=True),)
    return Problem(tuple(operators), tuple(edges), there)


class _Made:
    def __init__(self, seed: int) -> None:
        self.operators: list[Operator] = []
        self.edges: list[tuple[int, int]] = []
        self._chance = random.Random(seed)

    def add(self, time: float, memory: float, output: float, *inputs: int) -> int:
        """One more operator, about so long and so large; its place."""
        time, slower = time * self._chance.uniform(0.7, 1.3), self._chance.uniform(5, 15)
        self.operators.append(Operator((time, time * slower), memory * 1e6, output * self._chance.uniform(0.08, 0.12)))
        self.edges += [(one, len(self.operators) - 1) for one in inputs]
        return len(self.operators) - 1


def _layer(made: _Made, last: int, mask: int, heads: int) -> int:
    parts = []
    for _ in range(heads):
        query, key, value = (made.add(0.3, 1, 0.2, last) for _ in range(3))
        scores = made.add(0.2, 0.1, 0.5, query, made.add(0.05, 0.1, 0.2, key))
        weights = made.add(0.1, 0.1, 0.5, made.add(0.05, 0.1, 0.5, scores, mask))
        parts.append(made.add(0.2, 0.1, 0.2, weights, value))
    joined = made.add(0.8, 4, 1.0, made.add(0.05, 0.1, 1.0, *parts))
    middle = made.add(0.1, 0.1, 1.0, made.add(0.05, 0.1, 1.0, joined, last))
    wide = made.add(0.2, 0.1, 3.0, made.add(2.0, 12, 3.0, middle))
    return made.add(0.1, 0.1, 1.0, made.add(0.05, 0.1, 1.0, made.add(2.0, 12, 1.0, wide), middle))


def _with_backward(
    operators: list[Operator], edges: list[tuple[int, int]]
) -> tuple[list[Operator], list[tuple[int, int]]]:
    """A backward operator takes twice as long, uses the forward inputs, and goes the other way round."""
    count = len(operators)
    forward = [replace(one, group=at) for at, one in enumerate(operators)]
    back = [replace(one, times_s=tuple(2 * time for time in one.times_s), backward=True) for one in forward]
    turned = [(count + user, count + source) for source, user in edges]
    saved = [(source, count + user) for source, user in edges]
    return forward + back, [*edges, *turned, *saved, (count - 1, 2 * count - 1)]
