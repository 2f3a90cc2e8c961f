"""djinn-fx: the torch.compile backend ``djinn``.

``torch.compile(model, backend="djinn")`` is found through the package's entry point; nothing has to be
imported for it. This module is cheap: it imports neither torch nor any optional package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from djinn_fx import version

__version__ = version.VERSION

if TYPE_CHECKING:
    from djinn_fx.backend import compilations as compilations
    from djinn_fx.backend import compile_exported as compile_exported
    from djinn_fx.backend import reset as reset
    from djinn_fx.backend import status as status
    from djinn_fx.backend import wait_until_ready as wait_until_ready
    from djinn_fx.costmodels import Call as Call
    from djinn_fx.costmodels import CostModel as CostModel
    from djinn_fx.costmodels import Count as Count
    from djinn_fx.costmodels import Estimate as Estimate
    from djinn_fx.costmodels import Work as Work
    from djinn_fx.costmodels import WorkGraph as WorkGraph
    from djinn_fx.costmodels import forget_rule as forget_rule
    from djinn_fx.costmodels import rule as rule
    from djinn_fx.explain.notebook import explain as explain
    from djinn_fx.runtime.devices.pipeline import pipeline as pipeline
    from djinn_fx.runtime.offload.buffers import parameters_on_meta as parameters_on_meta
    from djinn_fx.runtime.offload.load import load_offloaded as load_offloaded
    from djinn_fx.runtime.offload.status import offload_status as offload_status
    from djinn_fx.saved.guards import saveable_guards as saveable_guards
    from djinn_fx.sessions.session import open_sessions as open_sessions
    from djinn_fx.sessions.session import session as session
    from djinn_fx.sessions.session import session_status as session_status
    from djinn_fx.sessions.session import signal_phase as signal_phase

#: Where each public name is at home.
_HOMES = {
    **dict.fromkeys(("compilations", "compile_exported", "reset", "status", "wait_until_ready"), "djinn_fx.backend"),
    **dict.fromkeys(
        ("Call", "CostModel", "Count", "Estimate", "Work", "WorkGraph", "forget_rule", "rule"), "djinn_fx.costmodels"
    ),
    "explain": "djinn_fx",  # the module itself can be called
    "load_offloaded": "djinn_fx.runtime.offload.load",
    "offload_status": "djinn_fx.runtime.offload.status",
    "parameters_on_meta": "djinn_fx.runtime.offload.buffers",
    "pipeline": "djinn_fx.runtime.devices.pipeline",
    "saveable_guards": "djinn_fx.saved.guards",
    **dict.fromkeys(("open_sessions", "session", "session_status", "signal_phase"), "djinn_fx.sessions.session"),
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that ``import djinn_fx`` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'djinn_fx' has no attribute {name!r}")
    home = _HOMES[name]
    if home == __name__:
        return importlib.import_module(f"{home}.{name}")
    return getattr(importlib.import_module(home), name)
