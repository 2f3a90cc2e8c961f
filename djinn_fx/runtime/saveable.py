"""Where ``saveable_guards`` used to be. Goes with the release after 0.2."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Its home is ``djinn_fx``."""
    if name != "saveable_guards":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is djinn_fx.{name}; {__name__} goes with the next release", FutureWarning, stacklevel=2)
    return getattr(importlib.import_module("djinn_fx"), name)
