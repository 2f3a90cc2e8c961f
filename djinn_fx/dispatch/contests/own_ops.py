"""A region's own ops, and how long they take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from djinn_fx.engines.base import RegionCallable, Runner


class OwnOps(Runner):
    """The region's own ops, with a clock: they run wherever an answer is compared."""

    def __init__(self, run: RegionCallable) -> None:
        self._run = run
        self.runs, self.least_s = 0, math.inf

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run them."""
        start = time.perf_counter()
        results = self._run(args)
        self.least_s = min(self.least_s, time.perf_counter() - start)
        self.runs += 1
        return results

    @property
    def unsure(self) -> bool:  # type: ignore[override]
        """Whether they ran but once: that was slower than they are."""
        return self.runs == 1

    @property
    def direct(self) -> RegionCallable:
        """Without the clock."""
        return self._run
