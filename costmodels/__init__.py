"""Cost models: what an op does and how long a device takes for it.

For users: :func:`rule` (a decorator), :func:`forget_rule`, :class:`Call` and :class:`Count` (docs/cost_rules.md);
:class:`Work`, :class:`WorkGraph`, :class:`Estimate` and :class:`CostModel` for a whole model of one's own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "djinn_fx.costmodels":
    raise ImportError("import this package as djinn_fx.costmodels, not as a top-level package")

if TYPE_CHECKING:
    from djinn_fx.costmodels.estimate import CostModel, Estimate
    from djinn_fx.costmodels.work.call import Call, Count
    from djinn_fx.costmodels.work.user_rules import forget_rule, rule
    from djinn_fx.costmodels.work.work import Work, WorkGraph

__all__ = ["Call", "CostModel", "Count", "Estimate", "Work", "WorkGraph", "forget_rule", "rule"]

_HOMES = {
    "Call": "work.call",
    "Count": "work.call",
    "CostModel": "estimate",
    "Estimate": "estimate",
    "Work": "work.work",
    "WorkGraph": "work.work",
    "rule": "work.user_rules",
    "forget_rule": "work.user_rules",
}


def __getattr__(name: str) -> Any:
    """Import what users need when they ask for it: the rules take a while to load."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"djinn_fx.costmodels.{_HOMES[name]}"), name)
