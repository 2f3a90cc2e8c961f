"""A setting as a field of the table."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def setting(default: Any, group: str, meaning: str, *, accepts: str = "", compiles: bool = False, **limits: Any) -> Any:
    """A field. ``accepts``: its type in words (a Literal says it itself); ``compiles``: it changes what is compiled."""
    extra: dict[str, Any] = {"group": group, "accepts": accepts, "compiles": compiles}
    return Field(default, description=meaning, json_schema_extra=extra, **limits)
