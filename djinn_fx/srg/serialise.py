"""The Plan as JSON, for reports, with a schema version.

A change of any field of a region or a plan is a new schema version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from djinn_fx.srg.plan import Plan

PLAN_SCHEMA = "djinn_fx.plan/4"


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """A Plan as a JSON object."""
    return {"schema": PLAN_SCHEMA, **_encode(plan)}


def _encode(value: Any) -> Any:
    """A dataclass as a JSON object with all its fields; tuples as lists, enums as their values."""
    if dataclasses.is_dataclass(value):
        return {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    return value
