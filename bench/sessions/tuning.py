"""Baselines tuned: every setting of a grid on seeds that are measured on no other occasion."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from bench.sessions.cells import Cell
from bench.sessions.judging import by_turn, play, unlimited
from bench.sessions.load import Job
from djinn_fx.sessions.policy.named import policy_named

#: What is known from elsewhere. LIFO and the clairvoyant policy stand beside them and are no baselines.
BASELINES = ("recompute", "lru", "lru-host", "arc", "ttl", "min-waste", "steps", "eager-swap")
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "lru-host": {"exclusive": (False, True)},
    "arc": {"exclusive": (False, True)},
    "ttl": {"tool_s": (10.0, 60.0, 300.0), "programs": (False, True), "exclusive": (False, True)},
    "min-waste": {"eager": (0.0, 16.0, 64.0), "exclusive": (False, True)},
    "eager-swap": {"after_s": (30.0, 120.0, 600.0), "tools": (True, False)},
}
#: Seeds below are measured.
TUNING_SEED = 10_000


def grid(name: str) -> list[dict[str, Any]]:
    """All settings of a policy."""
    fields = GRIDS.get(name, {})
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]


def scores(cell: Cell, sessions: Sequence[Job], count: int, seed: int) -> list[tuple[str, dict[str, Any], float]]:
    """Stall in parts of busy time of every setting of every baseline that has any, in one cell."""
    load, server = cell.load(sessions, count, TUNING_SEED + seed), cell.server()
    free = by_turn(unlimited(load, server))
    found = []
    for name in GRIDS:
        for options in grid(name):
            one = play(load, policy_named(name, **options), server, free)
            found.append((name, options, one.stall_s / one.busy_s))
    return found


def best(found: Sequence[tuple[str, dict[str, Any], float]]) -> dict[str, dict[str, Any]]:
    """Of each baseline the setting whose stalls add up to least."""
    sums: dict[str, dict[tuple[tuple[str, Any], ...], float]] = {}
    for name, options, stall in found:
        key = tuple(sorted(options.items()))
        sums.setdefault(name, {})[key] = sums.get(name, {}).get(key, 0.0) + stall
    return {name: dict(min(by, key=lambda key: by[key])) for name, by in sums.items()}
