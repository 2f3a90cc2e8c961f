"""Skipping AOTAutograd in a warm process, by way of torch's own AOTAutograd cache.

Torch keeps the result of AOTAutograd on disk if the compiler gives back an ``OutputCode``. Ours holds only plain
data: the program and the keys of its regions' artefacts. On a hit torch hands it back before any tracing, and the
artefacts come from memory or our own store. If one is gone, loading raises, torch takes that for a miss, and the
graph is compiled anew. Keys are torch's (graph, inputs, guards, torch and its settings) plus a tag of ours.

This is the one module that knows torch's private names for that cache.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

import torch
import torch._functorch.config
from torch._functorch._aot_autograd import autograd_cache
from torch._functorch._aot_autograd.autograd_cache import BypassAOTAutogradCache
from torch._functorch._aot_autograd.schemas import SerializableAOTDispatchCompiler
from torch._inductor import codecache
from torch._inductor.output_code import OutputCode

from djinn_fx.dispatch.checks import load_artefact
from djinn_fx.engines.base import RegionCallable
from djinn_fx.errors import StoreError
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import Program, program_from_json, program_to_json
from djinn_fx.saved.early import Early
from djinn_fx.settings.table import Settings
from djinn_fx.version import VERSION

log = logging.getLogger("djinn_fx.runtime")


#: Callables of graphs that torch has found in its cache, since :func:`keeping` was entered.
_LOADED: ContextVar[list[RegionCallable] | None] = ContextVar("djinn_fx_loaded", default=None)
#: What is being opened meanwhile.
_EARLY: ContextVar[Early | None] = ContextVar("djinn_fx_early", default=None)


class DjinnGraph(OutputCode):
    """A compiled graph that torch can keep: the program, and the key of each region's artefact.

    Args:
        run: the boxed callable.
        stored: JSON text from which it can be made again, or None if it cannot (a region runs eagerly, or holds
            a constant).
    """

    def __init__(self, run: RegionCallable, stored: str | None) -> None:
        super().__init__()
        self._boxed_call = True
        self._run: RegionCallable | None = run
        self._stored = stored

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Run the graph; empties the list."""
        assert self._run is not None, "post_compile has not run"
        return self._run(inputs)  # type: ignore[arg-type]

    def prepare_for_serialization(self) -> None:
        """Torch has made a copy of this object to keep: drop from it what only lives in this process.

        Raises:
            BypassAOTAutogradCache: the graph cannot be kept; torch then leaves it out of its cache without a word.
        """
        if self._stored is None:
            raise BypassAOTAutogradCache("a djinn graph with eager regions or constants")
        self._run = None
        early = _EARLY.get()
        if early is not None:
            early.note(self._stored)

    def post_compile(self, example_inputs: Any, constants: Any, graph_kwargs: Any) -> None:
        """After loading: fetch the regions' artefacts.

        Raises:
            StoreError: one is gone; torch takes this for a miss.
        """
        if self._run is not None:
            return
        assert self._stored is not None, "only kept graphs are loaded"
        early = _EARLY.get()
        form: dict[str, Any] = json.loads(self._stored)
        if "table" in form:  # compiled ahead of time, or engines compete for it
            from djinn_fx.saved.form import restore

            self._run = restore(form)
            if early is not None:
                early.found(self._stored, form, self._run)
            loaded = _LOADED.get()
            if loaded is not None:
                loaded.append(self._run)
            return
        program, keys, settings = program_from_json(form["program"]), form["keys"], Settings(**form["settings"])
        checked = frozenset(form["checked"])
        callables = [load_artefact(settings, key, passed=key in checked) for key in keys]
        missing = [key[:12] for key, run in zip(keys, callables, strict=True) if run is None]
        if missing:
            raise StoreError(
                f"artefacts are not in the cache any more, or were not checked yet: {', '.join(dict.fromkeys(missing))}"
            )
        self._run = executable(program, [run for run in callables if run is not None], {})

    def set_triton_bundle(self, triton_bundle: Any) -> None:
        """Triton kernels travel inside the regions' artefacts; there are none of the graph's own."""


def kept_form(program: Program, keys: Sequence[str], settings: Settings, checked: Iterable[str] = ()) -> str | None:
    """The text a graph can be made from again, or None if one of its regions has no stored artefact.

    Args:
        program: the graph's.
        keys: of its regions' artefacts.
        settings: in force.
        checked: those of them that may be used only once their answers have been compared with eager's.
    """
    if not all(keys):
        return None
    form = {
        "settings": settings.model_dump(exclude={"passes"}),
        "keys": list(keys),
        "checked": sorted(set(checked)),
        "program": program_to_json(program),
    }
    try:
        return json.dumps(form)
    except TypeError as error:  # a literal result that is no JSON value
        log.debug("graph not kept: %s", error)
        return None


def cacheable(compiler: Callable[..., Any]) -> Any:
    """Mark a compiler's results as ones torch may keep."""
    return SerializableAOTDispatchCompiler(OutputCode, compiler)


@contextlib.contextmanager
def keeping(settings: Settings, engine_tag: str, early: Early | None = None) -> Iterator[list[RegionCallable]]:
    """Let torch keep whole graphs, under a tag that changes with our version, settings and engine.

    Args:
        settings: in force.
        engine_tag: what else they depend on.
        early: what is opened meanwhile for the graph that torch looks for.

    Yields:
        The callables of those that torch has found in its cache meanwhile and for which engines compete.
    """
    tag = f"{torch.compiler.config.cache_key_tag}djinn-{VERSION}-{settings.digest()[:16]}-{engine_tag}"
    with (
        torch.compiler.config.patch("cache_key_tag", tag),  # type: ignore[attr-defined]
        torch._functorch.config.patch("bundled_autograd_cache", True),
        _keys_without_code_generators(),
    ):
        loaded: list[RegionCallable] = []
        token, other = _LOADED.set(loaded), _EARLY.set(early)
        try:
            yield loaded
        finally:
            _LOADED.reset(token)
            _EARLY.reset(other)
            if early is not None:
                early.end()


def hash_torch_beside() -> None:
    """Have torch read its own source files, whose hash is part of every key, in a thread."""
    prefetch = getattr(codecache.torch_key, "prefetch", None)
    if prefetch is not None:
        prefetch()


#: What torch's key holds of Inductor's code generators: for each kind of device None, or what a user has registered.
_REGISTERED = ("custom_backend_passes", "custom_backend_codegen_configs")


@contextlib.contextmanager
def _keys_without_code_generators() -> Iterator[None]:
    """Let torch compute keys without importing Inductor's code generators, which takes most of a second.

    Their registration only adds what is None for each kind of device, and is done by Inductor itself where it compiles.
    What users have registered stays in the key.
    """
    key_of = getattr(autograd_cache, "autograd_cache_key", None)
    if key_of is None or not all(hasattr(codecache, name) for name in ("init_backend_registration", *_REGISTERED)):
        yield  # a torch that does this in another way
        return

    def light(*args: Any, **kwargs: Any) -> Any:
        registered = {name: getattr(codecache, name) for name in _REGISTERED}
        only = {name: {key: one for key, one in found.items() if one} for name, found in registered.items()}
        with contextlib.ExitStack() as stack:
            for name, value in {**only, "init_backend_registration": lambda: None}.items():
                stack.enter_context(patch.object(codecache, name, value))
            return key_of(*args, **kwargs)

    with patch.object(autograd_cache, "autograd_cache_key", light):
        yield
