"""What a user is told when no engine that was asked for serves a graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER, STANDBY
from djinn_fx.settings.table import Settings

log = logging.getLogger("djinn_fx.dispatch")

#: Sentences that were a warning already: a model has many graphs.
_SAID: set[str] = set()
_MAX_SAID = 256

#: Label of a graph that is one region.
WHOLE = "whole graph"


def cannot_serve(refused: Sequence[tuple[str, str]], instead: str | None, label: str = WHOLE) -> str:
    """The sentence.

    Args:
        refused: the engines and what each of them said.
        instead: the engine that serves in their place; None: the region's own ops do.
        label: of what they do not serve.
    """
    what = "this graph" if label == WHOLE else label
    lines = [(engine, without_name(engine, why).removeprefix(f"cannot open {label}: ")) for engine, why in refused]
    told = " and ".join(f"{engine} cannot serve {what}: {line}" for engine, line in lines)
    serves = f"{instead} does" if instead is not None else "its own ops do"
    return f"djinn_fx: {told}; {serves}. {_remedy(told)}"


def without_name(engine: str, why: str) -> str:
    """What an engine said, without its name in front."""
    while why.startswith(f"{engine}: "):
        why = why.removeprefix(f"{engine}: ")
    return why.strip().rstrip(".;")


def _remedy(told: str) -> str:
    if "pip install" in told:
        return "Or name another engine (option engine; `auto` tries those that are installed)."
    return "Name another engine (option engine; `auto` tries those that are installed)."


def warn(sentence: str) -> None:
    """Log a sentence: as a warning when it is new."""
    new = sentence not in _SAID and len(_SAID) < _MAX_SAID
    _SAID.add(sentence)
    log.log(logging.WARNING if new else logging.INFO, "%s", sentence)


_TOLD = (ReasonKind.ENGINE_REFUSED, ReasonKind.FALLBACK, ReasonKind.NOT_RUNNABLE, ReasonKind.QUARANTINED)


def told_of_refusals(settings: Settings, of_graph: Sequence[Reason], builds: Sequence[RegionBuild]) -> tuple[str, ...]:
    """A sentence where no engine that the settings name serves a region; else nothing. A warning if it is all regions.

    Args:
        settings: in force.
        of_graph: why engines did not take the graph whole.
        builds: how its regions came out.
    """
    named = [name for name in settings.engines if name not in (EAGER, STANDBY)]
    others = [build for build in builds if build.engine not in named]
    if not named or len(named) < len(settings.engines) or not others:
        return ()
    reasons = [*(reason for build in others for reason in build.reasons), *of_graph]
    refused = [(name, why) for name in named if (why := _said_by(name, reasons)) is not None]
    if not refused:
        return ()
    instead = next((build.engine for build in others if build.engine != EAGER), None)
    waiting = any(build.outcome == "waiting" for build in others)
    label = WHOLE if len(others) == len(builds) else f"{len(others)} of {len(builds)} regions"
    sentence = cannot_serve(refused, STANDBY if instead is None and waiting else instead, label)
    if len(others) == len(builds):
        warn(sentence)
    return (sentence,)


def absent(reasons: Sequence[Reason], names: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each engine that takes no part in a contest others are in.

    Args:
        reasons: why engines did not take the graph.
        names: the engines that were asked.
    """
    refused = [(name, why) for name in names if (why := _said_by(name, reasons)) is not None]
    return tuple(f"{name} takes no part: {without_name(name, why)}" for name, why in refused)


def _said_by(name: str, reasons: Sequence[Reason]) -> str | None:
    """The first refusal of an engine: their details begin with its name."""
    found = (one.detail for one in reasons if one.kind in _TOLD and one.detail.startswith((f"{name}:", f"{name},")))
    return next(found, None)


def engines_left(entrants: Sequence[Entrant]) -> bool:
    """Whether an engine other than own ops is still in the contest, or will come by itself."""
    return any(one.state is not State.FAILED and not one.reserve and one.engine != EAGER for one in entrants)


def refused(entrants: Sequence[Entrant], label: str) -> str | None:
    """What to tell where no engine that was asked for is left; None while there is one."""
    out = [(one.engine, one.reason.detail) for one in entrants if one.state is State.FAILED and one.reason]
    others = [one for one in entrants if one.state is not State.FAILED and one.engine != EAGER]
    if not out or not all(one.late for one in others):
        return None
    instead = next((one.engine for one in others if one.building or one.arrived()), None)
    return cannot_serve(out, instead, label)
