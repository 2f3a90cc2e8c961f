"""The table of engines. A missing optional library is a capability answer, never an ImportError."""

from __future__ import annotations

import importlib
from typing import Any

from djinn_fx.engines.base import Engine
from djinn_fx.errors import SettingsError
from djinn_fx.settings.table import Settings
from djinn_fx.store.opening import kept_folder, open_store

#: Name → "module:factory". Modules are imported on first use.
ENGINES: dict[str, str] = {
    "eager": "djinn_fx.engines.eager:EagerEngine",
    "inductor": "djinn_fx.engines.inductor.engine:InductorEngine",
    "inductor-packed": "djinn_fx.engines.packed.with_inductor:make",
    "onnxruntime": "djinn_fx.engines.onnxruntime.engine:OnnxRuntimeEngine",
    "openvino": "djinn_fx.engines.openvino.engine:OpenVinoEngine",
    "packed": "djinn_fx.engines.packed.engine:make",
    "tensorrt": "djinn_fx.engines.tensorrt.engine:make",
}
#: What a factory is given, by name: settings, and ``folder`` and ``store`` of the cache (None: nothing is kept).
OPTIONS: dict[str, tuple[str, ...]] = {
    "inductor": ("mode", "fallback_random"),
    "inductor-packed": ("mode", "fallback_random", "weights", "folder"),
    "onnxruntime": ("precision", "weights", "folder"),
    "openvino": ("precision", "weights", "folder"),
    "packed": ("weights", "folder"),
    "tensorrt": ("target", "store", "verify"),
}


def engine(name: str, settings: Settings) -> Engine:
    """The engine of that name, set up for these settings.

    Raises:
        SettingsError: no such engine.
    """
    if name not in ENGINES:
        raise SettingsError(f"unknown engine {name!r}; known: {', '.join(sorted(ENGINES))}")
    module, _, factory = ENGINES[name].partition(":")
    options = {option: _option(option, settings) for option in OPTIONS.get(name, ())}
    made: Engine = getattr(importlib.import_module(module), factory)(**options)
    return made


def _option(name: str, settings: Settings) -> Any:
    if name == "folder":
        return kept_folder(settings)
    return open_store(settings)[0] if name == "store" else getattr(settings, name)
