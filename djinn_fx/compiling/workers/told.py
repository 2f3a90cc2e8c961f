"""What a worker is told of the settings besides a graph, and reading that there: plain data, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from djinn_fx.errors import EngineError
from djinn_fx.settings.table import Settings
from djinn_fx.srg.record import Residency

#: The settings that a worker is told: those that say how a graph is compiled and checked.
SENT = (
    "engine", "compile", "mode", "precision", "verify", "on_failure", "weights", "fallback_random", "regions",
    "expected_calls", "compile_budget", "cost_model", "cache_dir", "cache_limit", "arena",
)  # fmt: skip


def about(settings: Settings, *, same_machine: bool) -> dict[str, Any]:
    """What a worker is told of the settings: plain data.

    Args:
        settings: in force.
        same_machine: whether it shares this machine's files.
    """
    told = {name: getattr(settings, name) for name in SENT}
    if settings.worker_memory is not None:  # engines that keep copies of weights take part where these have room too
        told["memory_budget"] = {"cpu": settings.worker_memory}
    if not isinstance(settings.cost_model, str):
        told["cost_model"] = "auto"  # an object stays where it is
    if not same_machine:
        told["cache_dir"] = None
    return {"settings": {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}}


def settings_of(told: Mapping[str, Any]) -> Settings:
    """The settings that a graph came with.

    Raises:
        EngineError: they are none.
    """
    given = told.get("settings")
    if not isinstance(given, dict) or not set(given) <= {*SENT, "memory_budget"}:
        raise EngineError("a graph came with settings that a worker is not told")
    try:
        return Settings(**given)
    except ValueError as error:
        raise EngineError(f"a graph came with settings that are none: {error}") from error


def kinds_of(told: Mapping[str, Any], count: int) -> list[Residency]:
    """What each of so many inputs of a graph that came is.

    Raises:
        EngineError: that is not told.
    """
    given = told.get("kinds")
    if not isinstance(given, list) or len(given) != count:
        raise EngineError("a graph came without what its inputs are")
    try:
        return [Residency(kind) for kind in given]
    except ValueError as error:
        raise EngineError(f"a graph came with inputs that are nothing: {error}") from error
