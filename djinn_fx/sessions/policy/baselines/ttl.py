"""A time to live: what awaits a tool is kept for a while, whoever wants the memory (Continuum, arXiv:2511.02230)."""

from __future__ import annotations

from djinn_fx.sessions.policy.baselines.lru import LRU
from djinn_fx.sessions.policy.state import Context


class TTL(LRU):
    """LRU in which a wait for a tool counts as used until its time to live is over; programs are served as they came.

    Args:
        tool_s: seconds that a context that awaits a tool lives.
        other_s: seconds for all other waits.
        programs: turns go in the order in which their sessions began, instead of that in which they came.
    """

    name = "ttl"

    def __init__(
        self, tool_s: float = 30.0, other_s: float = 0.0, programs: bool = False, exclusive: bool = False
    ) -> None:
        super().__init__(exclusive=exclusive)
        self.name = "ttl"
        self._tool, self._other, self._programs = tool_s, other_s, programs

    def key(self, context: Context, now: float) -> float:
        """When its time to live is over: those over longest leave first, and if there are none, those over soonest."""
        return context.since + (self._other if context.tool in ("", "user", "prefix") else self._tool)

    def rank(self, context: Context, now: float) -> tuple[float, ...]:
        """Program-level first come, first served."""
        return (-context.priority, context.first_at if self._programs else context.since)
