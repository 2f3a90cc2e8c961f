"""The table of engines. A missing optional library is a capability answer, never an ImportError."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
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
#: What a factory is given, by name: settings, ``folder`` and ``store`` of the cache (None: nothing is kept), and
#: ``filed``, where weights are to lie if they are not to stay in memory.
OPTIONS: dict[str, tuple[str, ...]] = {
    "inductor": ("mode", "fallback_random"),
    "inductor-packed": ("mode", "fallback_random", "weights", "folder", "filed"),
    "onnxruntime": ("precision", "weights", "folder", "filed"),
    "openvino": ("precision", "weights", "folder", "filed"),
    "packed": ("weights", "folder", "filed"),
    "tensorrt": ("target", "store", "verify"),
}
#: What an engine does once a process, as "module:function": beside the tracing, given the graph's example inputs; and
#: before what a child built for it is loaded.
PREWARM: dict[str, str] = {"inductor": "djinn_fx.engines.inductor.prewarm:prewarm"}
RUNTIME: dict[str, str] = {"inductor": "djinn_fx.engines.inductor.engine:import_runtime"}


def prewarm(name: str, example_inputs: Sequence[Any]) -> None:
    """Start in a thread what an engine does once a process, if it does such a thing."""
    if name in PREWARM:
        _named(PREWARM[name])(example_inputs)


def import_runtime(name: str) -> None:
    """Import what an engine needs to run what was built, if that takes long."""
    if name in RUNTIME:
        _named(RUNTIME[name])()


def engine(name: str, settings: Settings) -> Engine:
    """The engine of that name, set up for these settings.

    Raises:
        SettingsError: no such engine.
    """
    if name not in ENGINES:
        raise SettingsError(f"unknown engine {name!r}; known: {', '.join(sorted(ENGINES))}")
    options = {option: _option(option, settings) for option in OPTIONS.get(name, ())}
    made: Engine = _named(ENGINES[name])(**options)
    return made


def _named(what: str) -> Any:
    module, _, name = what.partition(":")
    return getattr(importlib.import_module(module), name)


def _option(name: str, settings: Settings) -> Any:
    if name == "folder":
        return kept_folder(settings)
    if name == "filed":
        return settings.cache_folder if settings.keep_weights == "packed" else None
    return open_store(settings)[0] if name == "store" else getattr(settings, name)
