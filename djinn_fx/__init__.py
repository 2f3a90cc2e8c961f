"""djinn-fx: the torch.compile backend ``djinn``.

``torch.compile(model, backend="djinn")`` is found through the package's entry point; nothing has to be
imported for it. This module is cheap: it imports neither torch nor any optional package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from djinn_fx import version

__version__ = version.VERSION

if TYPE_CHECKING:
    from djinn_fx.backend import compile_exported as compile_exported
    from djinn_fx.backend import reset as reset
    from djinn_fx.backend import status as status
    from djinn_fx.backend import wait_until_ready as wait_until_ready

_LAZY = dict.fromkeys(("compile_exported", "reset", "status", "wait_until_ready"), "djinn_fx.backend")

__all__ = ["__version__", "compile_exported", "reset", "status", "wait_until_ready"]


def __getattr__(name: str) -> Any:
    """Import the public doors on first use, so that ``import djinn_fx`` stays cheap."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'djinn_fx' has no attribute {name!r}")
