"""The table of engines. A missing optional library is a capability answer, never an ImportError."""

from __future__ import annotations

import importlib

from djinn_fx.engines.base import Engine
from djinn_fx.errors import SettingsError
from djinn_fx.settings.table import Settings

#: Name → "module:factory"; the factory takes the settings. Modules are imported on first use.
ENGINES: dict[str, str] = {
    "eager": "djinn_fx.engines.eager:make",
    "inductor": "djinn_fx.engines.inductor.engine:make",
    "inductor-packed": "djinn_fx.engines.packed.with_inductor:make",
    "onnxruntime": "djinn_fx.engines.onnxruntime.engine:make",
    "openvino": "djinn_fx.engines.openvino.engine:make",
    "packed": "djinn_fx.engines.packed.engine:make",
    "tensorrt": "djinn_fx.engines.tensorrt.engine:make",
}


def engine(name: str, settings: Settings) -> Engine:
    """The engine of that name, set up for these settings.

    Raises:
        SettingsError: no such engine.
    """
    if name not in ENGINES:
        raise SettingsError(f"unknown engine {name!r}; known: {', '.join(sorted(ENGINES))}")
    module, _, factory = ENGINES[name].partition(":")
    made: Engine = getattr(importlib.import_module(module), factory)(settings)
    return made
