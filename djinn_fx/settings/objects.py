"""Settings whose values may be objects: passes and cost models; checked by their shape, and as stable text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from djinn_fx.errors import did_you_mean


def checked_cost_model(value: Any, known: Sequence[str]) -> Any:
    """A cost model as it is, or the name of a known one.

    Raises:
        ValueError: it is neither; what it lacks.
    """
    if isinstance(value, str):
        if value in known:
            return value
        raise ValueError(f"there is none called {value!r}{did_you_mean(value, known)}")
    if isinstance(value, type):
        raise ValueError(f"{value.__name__} is a class: make an object of it")
    missing = [name for name in ("op", "region") if not callable(getattr(value, name, None))]
    if not isinstance(getattr(value, "name", None), str):
        missing.insert(0, "name, a text")
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}; see djinn_fx.costmodels.estimate.CostModel")
    return value


def checked_passes(value: Any) -> Any:
    """Passes, or their names, as a tuple; None as it is.

    Raises:
        ValueError: one is neither.
    """
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise ValueError("passes are given as a list")
    for item in value:
        is_pass = dataclasses.is_dataclass(item) and callable(getattr(item, "run", None))
        if not isinstance(item, str) and (isinstance(item, type) or not is_pass):
            raise ValueError(f"{item!r} is neither a pass's name nor a pass (a dataclass with a method run)")
    return tuple(value)


def object_text(item: Any) -> str:
    """A pass object as stable text, its class and its fields; a cost model by its class and name."""
    if not dataclasses.is_dataclass(item) or callable(getattr(item, "region", None)):
        return f"{type(item).__module__}.{type(item).__qualname__}({item.name!r})"
    fields = ", ".join(f"{field.name}={getattr(item, field.name)!r}" for field in dataclasses.fields(item))
    return f"{type(item).__module__}.{type(item).__qualname__}({fields})"
