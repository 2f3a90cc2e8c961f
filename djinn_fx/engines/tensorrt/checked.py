"""The first-run check: an engine's first answer is compared with eager's before any of its answers is used.

A plan can be built, load and run, and still be wrong: a converter's mistake, a kernel's, a damaged file that loads all
the same. So the first call of a session runs both: the region's own code, whose results are returned, and the plan,
whose results are compared with them. From the second call on the plan runs alone. Wrong numbers never leave.

What is compared, and how far two right answers may differ, is in :mod:`djinn_fx.engines.guard`; here with the bounds
for unknown work, and double precision with those of single, in which TensorRT computes it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from djinn_fx.engines.base import RegionCallable
from djinn_fx.engines.guard import compare
from djinn_fx.engines.guard.tolerance import Tolerance, may_round, tolerance
from djinn_fx.engines.guard.trial import capturing as _capturing
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind

log = logging.getLogger("djinn_fx.engines.tensorrt")

__all__ = ["Checkable", "Checked", "difference", "may_round"]


class Checkable(Protocol):
    """A region's callable that is not trusted yet. Regions that share it share its verdict."""

    mutated: tuple[int, ...]
    accepts: Callable[[Sequence[Any]], bool] | None
    verdict: bool | None

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run; on an ``EngineError`` the arguments are as they were."""
        ...


class Checked:
    """A callable that becomes the plan's once its first answer was right, and stays eager's if it was wrong.

    Args:
        run: the plan's callable.
        reference: the region's own code.
        dropped: told why, once, if the plan is not to be used any more.
        label: of the region, for messages.

    Attributes:
        accepts: as the plan's; what it does not accept goes to ``reference`` here too, so asking is an option.
    """

    def __init__(
        self, run: Checkable, reference: RegionCallable, dropped: Callable[[Reason], None], *, label: str = ""
    ) -> None:
        self._run, self._reference, self._dropped, self._label = run, reference, dropped, label
        self._lock = threading.Lock()
        self._told = False
        self.accepts = run.accepts

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the region: by the plan if it is trusted and takes these arguments, else eagerly. Empties the list."""
        run = self._run
        if run.verdict is False or (run.accepts is not None and not run.accepts(args)):
            return self._reference(args)
        if run.verdict is None:
            # Nothing can be compared while a CUDA graph is captured; the next call that is none will do it.
            return self._reference(args) if _capturing() else self._first(args)
        try:
            return run(args)
        except EngineError as error:
            self._drop(str(error))
            return self._reference(args)

    def _first(self, args: list[Any]) -> Sequence[Any]:
        trial = list(args)
        written = {place: args[place] for place in self._run.mutated}
        with self._lock:  # one thread tries; the memory of two trials at once would be for nothing
            if self._run.verdict is not None:
                return self(args)
            try:
                for place, tensor in written.items():
                    trial[place] = tensor.clone()
                copies = {place: trial[place] for place in written}
                found = self._run(trial)
            except (EngineError, torch.OutOfMemoryError) as error:
                self._drop(str(error))
                return self._reference(args)
            expected = self._reference(args)
            wrong = difference(found, expected) or _written_wrong(copies, written)
            if wrong is None:
                self._run.verdict = True
                log.info("region %s: the plan's first answer is eager's", self._label)
            else:
                self._drop(f"{self._label}: run: the plan's first answer is not eager's: {wrong}")
            return expected

    def _drop(self, why: str) -> None:
        self._run.verdict = False
        if not self._told:
            self._told = True
            self._dropped(Reason(kind=ReasonKind.FALLBACK, detail=f"tensorrt: {why}", node=self._label))


def difference(found: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """In what an answer differs from eager's by more than two right answers may; None if in nothing."""
    return compare.difference(found, expected, _bounds)


def _bounds(expected: torch.Tensor) -> Tolerance | None:
    if expected.dtype is torch.float64:
        return tolerance(torch.empty(0, dtype=torch.float32, device=expected.device))
    return tolerance(expected)


def _written_wrong(copies: Mapping[int, torch.Tensor], written: Mapping[int, torch.Tensor]) -> str | None:
    places = list(written)
    pairs = [copies[place] for place in places], [written[place] for place in places]
    first = next(compare.misses(*pairs, _bounds), None)
    return f"argument {places[first.place]} {first.detail}" if first is not None else None
