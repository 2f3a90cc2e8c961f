"""Hints, weighted by how true they proved.

For each tenant and tool two ways of foretelling a wait compete: by the waits that were seen, and by the client's
estimate times the ratios of waits to estimates that were seen. Each wait that ends scores both, by the logarithm of the
density that each gave to what came; the weight of hints is the odds of these scores, of which old ones fade. So exact
hints are believed after a few waits, noisy ones as widely as they are noisy, and lies not at all; none is ever taken at
its word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from djinn_fx.sessions.policy.curves import Curve, Table, ratio_grid, seconds_grid
from djinn_fx.sessions.policy.state import Context

#: What is left of a score when another wait has ended; and how much one wait may say.
FADE, MOST = 0.97, 2.5
#: Odds before anything is known, in logarithms: a client that has never been wrong is believed more than not, ...
PRIOR = 1.0
#: ... namely that most of its estimates are right and the rest within a factor of two.
BELIEF = (1.0,) * 240 + tuple(math.exp(0.3 * step / 10) for step in range(-20, 21))
#: An estimate below that is taken for that.
LEAST_S = 0.05

_SECONDS, _RATIOS = seconds_grid(), ratio_grid()


@dataclass(slots=True)
class Kind:
    """Waits of one tenant for one tool."""

    waits: Curve
    ratios: Curve
    score: float = PRIOR
    tables: dict[tuple[str, float], Table] = field(default_factory=dict)

    @property
    def trust(self) -> float:
        """The weight of hints, from 0 to 1."""
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, self.score))))

    def table(self, which: str, horizon: float) -> Table:
        """Of the waits, or of the ratios, to a horizon (rounded, so that there are few tables)."""
        key = which, round(2 * math.log2(max(horizon, 1e-3)))
        if key not in self.tables:
            if len(self.tables) > 64:
                self.tables.clear()
            self.tables[key] = Table(self.waits if which == "waits" else self.ratios, 2 ** (key[1] / 2))
        return self.tables[key]


@dataclass(slots=True)
class Wait:
    """A wait under way: of which kind, with which hint, and which stretches it is counted in."""

    kind: Kind
    estimate_s: float | None
    in_waits: int | None = None
    in_ratios: int | None = None


class Trust:
    """Everything learnt about waits, by tenant and tool."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._tools: dict[str, Curve] = {}
        self._all = Curve(_SECONDS)
        self._belief = Curve(_RATIOS, given=BELIEF)

    def kind(self, tenant: str, tool: str) -> Kind:
        """Waits of that tenant for that tool; made when first asked for."""
        found = self._kinds.get((tenant, tool))
        if found is None:
            if tool not in self._tools:
                self._tools[tool] = Curve(_SECONDS, self._all)
            # What another tenant's hints are worth says nothing of this one's.
            ratios = Curve(_RATIOS, self._belief)
            found = self._kinds[tenant, tool] = Kind(Curve(_SECONDS, self._tools[tool]), ratios)
        return found

    def begin(self, context: Context) -> Wait:
        """A wait begins, or what is said of it changed."""
        hint = context.estimate_s
        usable = hint is not None and math.isfinite(hint) and hint >= 0
        wait = Wait(
            self.kind(context.tenant, context.tool), max(LEAST_S, hint) if usable and hint is not None else None
        )
        self.reach(wait, 0.0)
        return wait

    def reach(self, wait: Wait, age: float) -> None:
        """It goes on, and has reached an age."""
        wait.in_waits = wait.kind.waits.reached(age, wait.in_waits)
        if wait.estimate_s is not None:
            wait.in_ratios = wait.kind.ratios.reached(age / wait.estimate_s, wait.in_ratios)

    def end(self, wait: Wait, age: float) -> None:
        """It ended at that age: the hint is scored, then both curves learn."""
        kind = wait.kind
        self.leave(wait)
        if wait.estimate_s is not None:
            ratio = age / wait.estimate_s
            gain = math.log(max(1e-6, kind.ratios.density(ratio)) / max(1e-6, kind.waits.density(age)))
            kind.score = FADE * kind.score + max(-MOST, min(MOST, gain))
            kind.ratios.ended(ratio)
        kind.waits.ended(age)

    def leave(self, wait: Wait) -> None:
        """It is counted no more as one that goes on."""
        wait.in_waits = wait.kind.waits.reached(-1.0, wait.in_waits)
        if wait.estimate_s is not None:
            wait.in_ratios = wait.kind.ratios.reached(-1.0, wait.in_ratios)
