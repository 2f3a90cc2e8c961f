"""The part of a memory plan that training adds to weights and inputs and that is gone after the step."""

from __future__ import annotations

from dataclasses import replace

from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow
from djinn_fx.srg.record import GraphKind


def activations(plan: MemoryPlan, kind: GraphKind) -> MemoryPlan:
    """The plan without what is there before a step or stays after it.

    Left are results, what is saved for the backward graph, and what ops make and need on the way; in a backward graph
    what it was handed as well. Weights and inputs are not among them, nor the gradients that it returns.
    """
    return replace(plan, rows=tuple(row for row in plan.rows if _counts(row, kind)))


def _counts(row: MemoryRow, kind: GraphKind) -> bool:
    if kind is GraphKind.BACKWARD:
        handed = row.holds is Holds.SAVED or row.name.startswith("tangents")
        return handed if row.given else row.holds is not Holds.OUTPUT
    return not row.given
