"""Why something was decided: every split, choice, fallback, eviction and cache miss carries a Reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ReasonKind(str, Enum):
    """What sort of decision a Reason explains. Tests assert on the kind, never on the wording."""

    PHASE = "phase"
    STATE = "state"
    UNPRICED = "unpriced"
    PRICED = "priced"
    ASSUMED = "assumed"
    DRIFT = "drift"
    SPLIT = "split"
    WHOLE = "whole"
    COLOCATED = "colocated"
    PLACED = "placed"
    ORDERED = "ordered"
    TRANSFER = "transfer"
    ENGINE_CHOSEN = "engine-chosen"
    ENGINE_REFUSED = "engine-refused"
    FALLBACK = "fallback"
    DECLINED = "declined"
    CACHE_HIT = "cache-hit"
    CACHE_MISS = "cache-miss"
    CACHE_UNUSABLE = "cache-unusable"
    EVICTED = "evicted"
    UNCACHEABLE = "uncacheable"
    WAITING = "waiting"
    BUDGET = "budget"
    INFEASIBLE = "infeasible"
    NOT_RUNNABLE = "not-runnable"
    QUARANTINED = "quarantined"
    RELAID = "relaid"
    OUTSIDE_ARENA = "outside-arena"
    DEVICE_LOST = "device-lost"
    HINT = "hint"
    RECOMPUTED = "recomputed"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One decision and its cause.

    Attributes:
        kind: the sort of decision.
        detail: one sentence for the user.
        node: name of the graph node or region it is about, if any.
        runner_up: the alternative that was not taken, where there was a choice.
        runner_up_cost: what the alternative would have cost, in words with units.
    """

    kind: ReasonKind
    detail: str
    node: str | None = None
    runner_up: str | None = None
    runner_up_cost: str | None = None

    def __str__(self) -> str:
        where = f" [{self.node}]" if self.node else ""
        other = f" (instead of {self.runner_up}" if self.runner_up else ""
        if other:
            other += f": {self.runner_up_cost})" if self.runner_up_cost else ")"
        return f"{self.kind.value}{where}: {self.detail}{other}"

    def to_json(self) -> dict[str, str]:
        """The reason as a JSON object; absent fields are left out."""
        fields = {
            "kind": self.kind.value,
            "detail": self.detail,
            "node": self.node,
            "runner_up": self.runner_up,
            "runner_up_cost": self.runner_up_cost,
        }
        return {key: value for key, value in fields.items() if value is not None}

    @staticmethod
    def from_json(data: dict[str, str]) -> Reason:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: unknown kind.
        """
        return Reason(
            kind=ReasonKind(data["kind"]),
            detail=data["detail"],
            node=data.get("node"),
            runner_up=data.get("runner_up"),
            runner_up_cost=data.get("runner_up_cost"),
        )
