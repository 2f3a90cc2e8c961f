"""A contest of a graph that keeps one copy of its weights together with other graphs over them (``copies.py``)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.copies import Copies, Option, copy_of, fastest, join, options_of
from djinn_fx.dispatch.contests.latecomers import is_late
from djinn_fx.dispatch.contests.own_ops import OwnOps
from djinn_fx.dispatch.contests.trial import TELLING, Room
from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.reasons import Reason, ReasonKind


class SharingContest(Contest, Room):
    """See the module's text. A :class:`~djinn_fx.dispatch.contests.copies.Member`.

    Args:
        weights: picks those of a call's arguments.
        reference: the region's own ops.
        others: see :class:`Contest`.

    Attributes:
        asked: calls so far.
    """

    def __init__(
        self, *, weights: Callable[[Sequence[Any]], Sequence[torch.Tensor]], reference: OwnOps, **others: Any
    ) -> None:
        self.asked = 0
        self._weights, self._own = weights, reference
        #: Known from the first call on.
        self._copies: Copies | None = None
        super().__init__(reference=reference, room=self, **others)

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Answer a call."""
        self.asked += 1
        if self._copies is not None and self._copies.due and self.decided:
            self._copies.settle()
        return self._answer(args)

    def make_ready(self, args: Sequence[Any]) -> None:
        """See the base class."""
        self._join(args)
        super().make_ready(args)

    def _join(self, args: Sequence[Any]) -> None:
        if self._copies is None:
            self._copies = join(self, self._weights(args))

    def _on_trial(self, args: list[Any]) -> Sequence[Any]:
        self._join(args)
        assert self._copies is not None, "it has joined"
        self._end_vain_trial()
        results = super()._on_trial(args)
        if self.decided:
            self._copies.settle()
        elif self._answer != self._on_trial:
            self._copies.due = True  # once those were tried that are being made ready
        elif self._trial.waiting:
            self._copies.make_room(self)
        return results

    def _rematch(self, args: Sequence[Any]) -> bool:
        late = [one for one in self.entrants if is_late(one, self.may_keep)]
        if self._copies is not None and late and not self.pending and not any(map(self.admits, late)):
            self._copies.make_room(self)  # a graph that is seldom called has an engine on trial all the while
        return super()._rematch(args)

    # Room for copies

    def admits(self, entrant: Entrant) -> bool:
        """Whether an engine may be made ready now."""
        if self._copies is None:
            return True
        return self._copies.admits(copy_of(entrant, self._copies.bytes)) and self.may_keep(entrant)

    def keeps(self, entrant: Entrant) -> bool:
        """Whether the copy that an engine needs is there anyway."""
        return self._copies is not None and self._copies.keeps(copy_of(entrant, self._copies.bytes))

    def may_keep(self, entrant: Entrant) -> bool:
        """Whether the copy that an engine needs may come to be kept, as calls are now."""
        return self._copies is None or not self._copies.outweighs(copy_of(entrant, self._copies.bytes), self)

    def _let_go(self, entrant: Entrant) -> None:
        if self._copies is None or not self._copies.uses(entrant.sessions, self):
            super()._let_go(entrant)

    def _end_vain_trial(self) -> None:
        """Let go of copies on trial that have come to be outweighed."""
        rival, best = self._trial.rival, self._trial.best
        if rival is not None and not self.may_keep(rival):
            self.pause()
        if best is None or best.state is not State.TRIAL or self.may_keep(best):
            return
        with self._lock:
            best.move(State.COLD)
            self._trial.replace(None)
        self._let_go(best)

    # What the others ask

    @property
    def own_s(self) -> float:
        """The least seconds of a call on its own ops; infinite: not known."""
        return self._own.least_s

    def options(self, weights_bytes: int) -> list[Option]:
        """The engines that may answer, as they stand now."""
        return options_of(self.entrants, weights_bytes)

    def keep(self, copy: Hashable | None, weights_bytes: int) -> None:
        """Run on the fastest engine that needs this copy or none, if the best so far needs another."""
        self._end_vain_trial()
        with self._lock:
            on_trial = self._answer == self._on_trial
            lost = self._trial.best if on_trial else self._serving
            if lost is None or copy_of(lost, weights_bytes) in (None, copy):
                return
            best = fastest(self.options(weights_bytes), copy)
            other = next((one for one in self.entrants if best is not None and one.engine == best.engine), None)
            detail = f"{lost.engine}: its copy of the weights would have been the second; another saves more time"
            # Of whom too little is known the trial goes on later.
            known = lost is self._serving or lost.known_s is not None or len(lost.seconds) >= TELLING
            state = State.BEATEN if known else State.COLD
            lost.move(state, Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail, node=self.label))
            if on_trial:
                self._serving = None
                self._trial.replace(other)
            elif other is not None:
                self._serve_by(other)
            else:
                self._reopen(lost)
        self._let_go(lost)

    @property
    def trying(self) -> bool:
        """Whether an engine is on trial against the best so far."""
        return self._answer == self._on_trial and self._trial.rival is not None

    def pause(self) -> None:
        """Let go of the copy of the engine on trial; it is tried later."""
        with self._lock:
            rival = self._trial.pause() if self._answer == self._on_trial else None
        if rival is not None:
            self._let_go(rival)
