"""Engines that a user named and that refused a graph when it was planned: what is told of that."""

from __future__ import annotations

from collections.abc import Sequence

from djinn_fx.dispatch.refusals import WHOLE, cannot_serve, warn
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER, STANDBY
from djinn_fx.settings.table import Settings

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


def _said_by(name: str, reasons: Sequence[Reason]) -> str | None:
    """The first refusal of an engine: their details begin with its name."""
    found = (one.detail for one in reasons if one.kind in _TOLD and one.detail.startswith((f"{name}:", f"{name},")))
    return next(found, None)
