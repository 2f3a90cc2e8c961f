"""What trials found, on disk: for this work, these sizes, this machine and these versions, which engine was fastest.

An entry of the store without a payload. It is only ever a hint: the engine named must still pass its own checks, and
where it is not to be had the trial is run again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.engines.here import here
from djinn_fx.engines.keys import digest_of
from djinn_fx.engines.registry import engine
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.table import Settings
from djinn_fx.store import files
from djinn_fx.store.store import Store
from djinn_fx.units import format_seconds, now_text

log = logging.getLogger("djinn_fx.dispatch.contests.contest")

#: Raised when what an entry holds changes its meaning.
DECISION_SCHEMA = 3


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome of a trial.

    Attributes:
        engine: the fastest.
        seconds: median seconds of an answer, by engine, of all that took part.
        created: when, ISO 8601.
        over: whether all were tried; else it is the best so far, and the next process goes on.
    """

    engine: str
    seconds: Mapping[str, float]
    created: str
    over: bool = True


def decision_key(
    structural_hash: str, weights: Sequence[int], sizes: Sequence[int], fingerprints: Sequence[Mapping[str, str]]
) -> str:
    """The key of a decision.

    Args:
        structural_hash: of the work.
        weights: places of its inputs that are weights.
        sizes: the class of the work that the values of its size symbols make.
        fingerprints: of the engines that take part.
    """
    fields = {
        "schema": DECISION_SCHEMA,
        "what": "decision",
        "structural_hash": structural_hash,
        "weights": list(weights),
        "sizes": list(sizes),
        **here(),
        "engines": sorted(json.dumps(dict(one), sort_keys=True) for one in fingerprints),
    }
    return digest_of(fields)


def guess_key(structural_hash: str, weights: Sequence[int]) -> str:
    """Where the latest decision is for work of fixed sizes, whatever versions it holds for: for who only guesses."""
    return decision_key(structural_hash, weights, (), ())


def fingerprints_of(names: Sequence[str], settings: Settings) -> list[Mapping[str, str]]:
    """Of those of these engines that can build here: what a decision between them holds for."""
    engines = [engine(name, settings) for name in dict.fromkeys(names)]
    return [one.fingerprint() for one in engines if one.capability().can_build]


def remember(
    store: Store | None, key: str, label: str, engine: str, seconds: Mapping[str, float], *, over: bool = True
) -> None:
    """Put the outcome of a trial on disk."""
    if store is None:
        return
    header: dict[str, Any] = {
        "schema": DECISION_SCHEMA,
        "what": "decision",
        "engine": engine,
        "label": label,
        "seconds": dict(seconds),
        "over": over,
        "created": now_text(),
    }
    store.put(key, header, b"")


def recall(store: Store | None, key: str) -> Decision | None:
    """The outcome of an earlier trial; None if there was none."""
    entry = store.get(key) if store is not None else None
    if entry is None:
        return None
    header = entry.header
    seconds = header.get("seconds")
    if header.get("what") != "decision" or not isinstance(seconds, Mapping):
        log.warning("the entry %s is no decision; it is ignored", key[:12])
        return None
    known = {str(name): float(value) for name, value in seconds.items() if isinstance(value, (int, float))}
    return Decision(
        engine=str(header.get("engine")),
        seconds=known,
        created=str(header.get("created")),
        over=header.get("over") is not False,
    )


@dataclass(frozen=True)
class Outcomes:
    """What one contest knows of earlier ones, and tells later ones; of nothing where there is no store or no key.

    Attributes:
        store: the disk cache.
        key: of the outcome.
        label: of the work.
        proofs: keys of notes that go with the outcome when that is forgotten.
        guess: see :func:`guess_key`; empty: nobody guesses.
    """

    store: Store | None
    key: str
    label: str
    proofs: tuple[str, ...] = ()
    guess: str = ""

    @property
    def known(self) -> Decision | None:
        """The outcome of an earlier trial."""
        return recall(self.store, self.key) if self.key else None

    def decided(self, engine: str, seconds: Mapping[str, float]) -> None:
        """Keep an outcome, if there was somebody to beat."""
        if self.key and len(seconds) > 1:
            self._keep(engine, seconds, over=True)

    def leading(self, engine: str, seconds: Mapping[str, float]) -> None:
        """Keep the best so far of a trial that goes on: a graph that is seldom called is not decided in one process."""
        if self.key:
            self._keep(engine, seconds, over=False)

    def _keep(self, engine: str, seconds: Mapping[str, float], *, over: bool) -> None:
        remember(self.store, self.key, self.label, engine, seconds, over=over)
        if self.guess:
            remember(self.store, self.guess, self.label, engine, {})

    def forget(self) -> None:
        """Whoever was noted cannot serve any more: the next process holds a trial."""
        if self.store is None:
            return
        try:
            for key in filter(None, (self.key, self.guess, *self.proofs)):
                files.remove(self.store.entry_path(key))
        except OSError as error:
            log.warning("the outcome of a trial could not be deleted: %s", error)


def medians(entrants: Sequence[Entrant]) -> dict[str, float]:
    """Median seconds of an answer, by engine, of those that were timed."""
    return {one.engine: one.median_s for one in entrants if one.median_s is not None}


def all_medians(entrants: Sequence[Entrant]) -> dict[str, float]:
    """With those of earlier processes."""
    return {one.engine: one.known_s for one in entrants if one.known_s is not None} | medians(entrants)


def tried_medians(best: Entrant, entrants: Sequence[Entrant]) -> dict[str, float]:
    """Of the best so far and of who was beaten: others are still to be tried, whatever a call or two of theirs took."""
    return all_medians([one for one in entrants if one is best or one.state is State.BEATEN])


def why_chosen(best: Entrant, entrants: Sequence[Entrant], label: str) -> Reason:
    """That an engine is the fastest, and the second."""
    seconds = medians(entrants)
    own = f"{format_seconds(best.median_s)} a call" if best.median_s is not None else "the only one there is"
    return _chosen(best.engine, own, seconds, label)


def chosen_before(known: Decision, label: str) -> Reason:
    """That an earlier trial found an engine to be the fastest, and the second."""
    return _chosen(known.engine, f"the fastest in the trial of {known.created}", known.seconds, label)


def _chosen(engine: str, why: str, seconds: Mapping[str, float], label: str) -> Reason:
    others = {name: median_s for name, median_s in seconds.items() if name != engine}
    second = min(others, key=lambda name: others[name], default=None)
    return Reason(
        kind=ReasonKind.ENGINE_CHOSEN,
        detail=f"{engine}: {why}",
        node=label,
        runner_up=second,
        runner_up_cost=f"{format_seconds(others[second])} a call" if second is not None else None,
    )
