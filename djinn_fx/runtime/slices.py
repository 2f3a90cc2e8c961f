"""Runs a graph that was built for some of its samples as often as it takes, and puts the results together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.engines.base import RegionCallable
from djinn_fx.passes.splitting.call import Samples
from djinn_fx.passes.splitting.part import Whole


@dataclass(frozen=True, kw_only=True)
class Slices:
    """How the batch is parted.

    Attributes:
        count: of samples in the batch.
        size: of samples in each slice. The last slice begins earlier where it does not come out even.
        inputs: for each argument, where it has its samples; None: each slice is given all of it.
        results: for each result, the whole that slices make up; None: the last slice's is taken; a number: the argument
            in that place, which was written into.
        copied: places of arguments that are written into and are the same for all samples: each slice finds them as
            they were, and the last one writes.
    """

    count: int
    size: int
    inputs: tuple[Samples | None, ...]
    results: tuple[Whole | int | None, ...]
    copied: tuple[int, ...] = ()

    @property
    def starts(self) -> tuple[int, ...]:
        """The first sample of each slice."""
        return (*range(0, self.count - self.size, self.size), self.count - self.size)


class InSlices:
    """A graph's callable. A ``RegionCallable``.

    Args:
        run: the graph for one slice.
        slices: how the batch is parted.
    """

    def __init__(self, run: RegionCallable, slices: Slices) -> None:
        self._run, self.slices = run, slices

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run all slices; empties the list."""
        slices, given = self.slices, list(args)
        args.clear()
        results = [_begun(whole, given) for whole in slices.results]
        for start in slices.starts:
            part = [_slice(one, at, start, slices.size) for one, at in zip(given, slices.inputs, strict=True)]
            if start != slices.starts[-1]:
                for place in slices.copied:
                    part[place] = part[place].clone()
            made = self._run(part)
            for place, (value, whole) in enumerate(zip(made, slices.results, strict=True)):
                if whole is None:
                    results[place] = value
                elif isinstance(whole, Whole):
                    _slice(results[place], whole.at, start, slices.size).copy_(value)
            del made, value  # else they would live until the next slice has run
        return results


def _begun(whole: Whole | int | None, given: Sequence[Any]) -> Any:
    """A result before any slice has run."""
    if isinstance(whole, Whole):
        return torch.empty_strided(whole.shape, whole.strides, dtype=whole.dtype, device=whole.device)
    return given[whole] if whole is not None else None


def _slice(value: Any, at: Samples | None, start: int, size: int) -> Any:
    """A view of some samples."""
    return value if at is None else value.narrow(at.dim, start * at.each, size * at.each)
