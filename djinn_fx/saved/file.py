"""``torch.compile(model, backend="djinn").forward.aot_compile(...)``: functions that are saved, and loaded untraced.

Torch asks a backend for a ``SerializableCallable`` and puts its bytes into a file beside Dynamo's code and guards. Ours
are JSON, the engines' artefacts, and what torch pickles of AOTAutograd's result (:mod:`djinn_fx.saved.carried`); the
graphs in the latter are JSON text (:mod:`djinn_fx.saved.form`).

A file is code that will be run, as every pickle is: load only what you trust.
"""

from __future__ import annotations

import logging
import platform
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable, SerializableCallable

from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.engines.here import here
from djinn_fx.engines.registry import engine
from djinn_fx.errors import EngineError, StoreError
from djinn_fx.saved import carried as parts
from djinn_fx.saved.carried import Carried
from djinn_fx.saved.form import carrying, form_of, settings_json
from djinn_fx.saved.references import complete_references
from djinn_fx.saved.torch_cache import DjinnGraph, keeping
from djinn_fx.settings.engines import traits_of
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan
from djinn_fx.store.opening import open_store
from djinn_fx.version import VERSION

log = logging.getLogger("djinn_fx.runtime")

#: Facts of a fingerprint that make an artefact slower or faster where they differ, never wrong.
_ONLY_SPEED = frozenset({"threads"})


class SavedGraph(SerializableCallable):
    """A compiled graph that can be saved, or was loaded.

    Args:
        run: takes the graph's arguments; has torch's ``serialize``.
        carried: the artefacts of its regions.
        settings: it was compiled with.
    """

    def __init__(self, run: Callable[..., Any], carried: Carried, settings: Mapping[str, Any]) -> None:
        self._run, self._carried, self._settings = run, carried, settings

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph."""
        return self._run(*args, **kwargs)

    @classmethod
    def serialize_compile_artifacts(cls, fn: SavedGraph) -> bytes:
        """All that another process needs.

        Raises:
            StoreError: it is larger than the format allows.
            EngineError: Dynamo's code refers to something that another process could not find.
        """
        complete_references(sys._getframe(1))
        torch_bytes = BundledAOTAutogradSerializableCallable.serialize_compile_artifacts(
            BundledAOTAutogradSerializableCallable(fn._run)
        )
        return fn._carried.to_bytes(torch_bytes, {**_made_by(fn._carried), "settings": fn._settings})

    @classmethod
    def deserialize_compile_artifacts(cls, data: bytes) -> SavedGraph:
        """The graph, ready to run.

        Raises:
            StoreError: the bytes are damaged.
            EngineError: they were made by another version, or for another machine.
        """
        made_by = parts.made_by_of(data)
        _check(made_by)
        torch_bytes, carried = parts.from_bytes(data)
        with carrying(carried):
            loaded = BundledAOTAutogradSerializableCallable.deserialize_compile_artifacts(torch_bytes)
        return cls(loaded.compiled_fn, carried, made_by["settings"])


class Compiler(Protocol):
    """What compiles one of Dynamo's graphs; see ``djinn_fx.compiling.graph``."""

    def through_aot(self, gm: Any, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Trace, plan and build it."""
        ...

    def tag(self) -> str:
        """What a kept graph depends on besides the settings."""
        ...


class Ahead:
    """One ahead-of-time compilation.

    Args:
        settings: with which it is built.
        asked: as the user gave them.
        carried: what its graphs carry.
    """

    def __init__(self, settings: Settings, asked: Settings, carried: Carried) -> None:
        self.settings, self.asked, self.carried = settings, asked, carried

    def graph(self, srg: SRG, plan: Plan, builds: Sequence[RegionBuild], run: Any) -> DjinnGraph:
        """A built graph as one that can be kept.

        Raises:
            EngineError: a part of it cannot be written down.
        """
        return DjinnGraph(run, form_of(srg, plan, builds, self.settings, self.asked))


def compile_ahead(
    gm: Any, example_inputs: Sequence[Any], settings: Settings, compiler: Callable[..., Compiler]
) -> SavedGraph:
    """Compile one of Dynamo's graphs into a function that can be saved. Everything is built before it returns.

    Args:
        gm: Dynamo's graph.
        example_inputs: one per placeholder.
        settings: in force; ``compile`` is taken as ``"blocking"``.
        compiler: makes a compiler, given settings and ``ahead``.

    Raises:
        EngineError: a part of the graph cannot be saved, or an engine failed and ``on_failure`` is ``"raise"``.
    """
    with tempfile.TemporaryDirectory(prefix="djinn_fx-") as folder:
        chosen = settings.model_copy(update={"compile": "blocking"})
        store, _ = open_store(chosen)
        if store is None:  # artefacts are handed over by way of a cache; this one goes when they have been
            chosen = chosen.model_copy(update={"cache_limit": "20GB", "cache_dir": folder})
            store, reason = open_store(chosen)
            if store is None:
                raise EngineError(f"a function cannot be compiled ahead of time without a cache: {reason}")
        remembered = settings.cache and settings.passes is None
        try:
            return _compiled(gm, example_inputs, compiler, Ahead(chosen, settings, Carried(store)), remembered)
        except StoreError as error:  # torch kept the graph, but an artefact has since left the cache
            log.info("a kept graph is compiled anew: %s", error)
            return _compiled(gm, example_inputs, compiler, Ahead(chosen, settings, Carried(store)), False)


def _compiled(
    gm: Any, example_inputs: Sequence[Any], make: Callable[..., Compiler], ahead: Ahead, remembered: bool
) -> SavedGraph:
    """Compile, or take the graph from torch's cache if it may be there."""
    compiler = make(ahead.settings, ahead=ahead)
    tag = f"ahead-{'' if remembered else uuid.uuid4().hex}-{compiler.tag()}"
    with carrying(ahead.carried), keeping(ahead.settings, tag):
        run = compiler.through_aot(gm, example_inputs)
    return SavedGraph(run, ahead.carried, settings_json(ahead.asked))


# What a file was made by, and whether that is what is here


def _made_by(carried: Carried) -> dict[str, Any]:
    """What a file was made by: versions, the machine, and each engine's fingerprint."""
    engines: dict[str, Any] = {}
    for entry in carried.entries():
        fingerprint = dict(entry.header.get("fields", {}).get("engine", {}))
        engines[str(fingerprint.get("engine", "unknown"))] = fingerprint
    return {**_here(), "engines": engines, "devices": sorted(carried.devices)}


def _here() -> dict[str, str]:
    return {
        "djinn-fx": VERSION,
        "torch": str(torch.__version__),
        "Python": platform.python_version(),
        "the machine": platform.machine(),
    }


def _check(made_by: Mapping[str, Any]) -> None:
    """Whether a file fits here.

    Raises:
        EngineError: something is not as it was where the file was made.
    """
    differences = [
        f"{name} was {made_by.get(name)}, is {value}" for name, value in _here().items() if made_by.get(name) != value
    ]
    for name, saved in made_by.get("engines", {}).items():
        if not differences:
            differences = _engine_differences(name, saved, Settings(**made_by["settings"]))
    differences += [f"it runs on {one}, which is not here" for one in made_by.get("devices", ()) if not _is_here(one)]
    if differences:
        raise EngineError(
            f"the saved function does not fit here: {'; '.join(differences)}. Compile and save it here, or where it "
            "is the same"
        )


def _is_here(name: str) -> bool:
    device = torch.device(name)
    if device.type in ("cpu", "meta"):
        return True
    module = getattr(torch, device.type, None)
    return bool(module is not None and module.is_available() and (device.index or 0) < module.device_count())


def _engine_differences(name: str, saved: Mapping[str, str], settings: Settings) -> list[str]:
    made = engine(name, settings)
    capability = made.capability()
    if not capability.can_run:
        return [f"{name} does not run here ({capability.why_not})"]
    runs_by = traits_of(name).runs_by
    now = here() if runs_by else made.fingerprint()
    names = runs_by or sorted({*saved, *now} - _ONLY_SPEED)
    changed = [one for one in names if saved.get(one) != now.get(one)]
    return [f"{name}'s {one} was {saved.get(one)}, is {now.get(one)}" for one in changed]
