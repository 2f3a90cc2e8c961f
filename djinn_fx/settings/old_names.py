"""Settings of the release before this one that another says now. They are read once more, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from djinn_fx.errors import SettingsError
from djinn_fx.settings.sources import OLD_TYPES, Entry, Source


class _Now(NamedTuple):
    """The setting that says it now, and its value; None: the default already says it."""

    name: str
    value: Any


def _cache(keep: bool, _: Source) -> _Now | None:
    return None if keep else _Now("cache_limit", "0")


def _learn(learn: bool, found: Source) -> _Now | None:
    # Where another model is named there was nothing to learn.
    named = "cost_model" in found and found["cost_model"].value != "auto"
    return None if learn or named else _Now("cost_model", "calibrated")


def _share(share: float, found: Source) -> _Now | None:
    whole = "regions" in found and found["regions"].value != "auto"
    return None if whole else _Now("regions", f"auto:{share}")


_NOW: dict[str, Callable[[Any, Source], _Now | None]] = {
    "cache": _cache,
    "learn": _learn,
    "max_boundary_share": _share,
}
_INSTEAD = {
    "cache": "cache_limit: 0 is what cache: false was",
    "learn": "cost_model: calibrated is what learn: false was",
    "max_boundary_share": "regions: auto:0.1 is what max_boundary_share: 0.1 was",
}


def renewed(merged: Source) -> Source:
    """What all sources say together, old names in today's words.

    Raises:
        SettingsError: an old setting's value is none.
    """
    found = {name: entry for name, entry in merged.items() if name not in OLD_TYPES}
    for name in OLD_TYPES:
        if name in merged:
            value, where = merged[name]
            if OLD_TYPES[name] is bool and not isinstance(value, bool):
                raise SettingsError(f"{where}: {name} must be true or false, not {value!r:.80}")
            text = f"{where}: the setting {name!r} goes with the next release: {_INSTEAD[name]}"
            warnings.warn(text, FutureWarning, stacklevel=3)
            now = _NOW[name](value, found)
            if now is not None:
                found[now.name] = Entry(now.value, where)
    return found
