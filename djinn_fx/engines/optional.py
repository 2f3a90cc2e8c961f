"""Libraries that may be missing: every module of the package can be imported without them."""

from __future__ import annotations

import importlib
from typing import Any

from djinn_fx.errors import EngineError


class Missing:
    """Stands for a library, or a part of one, that is not installed; calling it says so.

    Engines ask ``capability()`` before they come to it, so users do not.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, part: str) -> Missing:
        return Missing(f"{self._name}.{part}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse.

        Raises:
            EngineError: always.
        """
        raise EngineError(f"{self._name} is needed, and its library is not installed")


def optional(name: str) -> Any:
    """A module, or what stands for it if its library is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return Missing(name)
