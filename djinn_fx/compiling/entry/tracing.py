"""Handing one of Dynamo's graphs to AOTAutograd, and what torch's cache of the results depends on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

from djinn_fx.engines.here import here_digest
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.layout_rules import decompositions
from djinn_fx.srg.record import GraphKind, Residency


def keepable(settings: Settings) -> bool:
    """Whether torch may keep graphs that are compiled with these settings."""
    off = torch.compiler.config.force_disable_caches
    return settings.cache and settings.engine != EAGER and settings.passes is None and not off


def tag_of(settings: Settings, kinds: Sequence[Residency]) -> str:
    """What a kept graph depends on besides the settings."""
    from djinn_fx.store.store import default_cache_dir

    directory = settings.cache_dir or default_cache_dir()
    # Code made for wider vectors or other threads must not be picked up, nor one that takes an argument for a
    # weight; torch's key has none of these.
    digest = hashlib.sha256("-".join(kind.value for kind in kinds).encode()).hexdigest()[:16]
    return f"{here_digest()}-{digest}-{directory}"


def through_aot(
    compile_traced: Callable[[GraphKind, GraphModule, Sequence[Any]], Any],
    partition: Callable[..., Any],
    gm: GraphModule,
    example_inputs: Sequence[Any],
    *,
    kept: bool,
) -> Callable[..., Any]:
    """Trace one of Dynamo's graphs.

    Args:
        compile_traced: compiles what AOTAutograd makes of it, given the kind of graph.
        partition: AOTAutograd's ``partition_fn``.
        gm: the graph.
        example_inputs: one per placeholder.
        kept: torch may keep the results.
    """
    compilers: dict[str, Any] = {
        "inference_compiler": functools.partial(compile_traced, GraphKind.INFERENCE),
        "fw_compiler": functools.partial(compile_traced, GraphKind.FORWARD),
        "bw_compiler": functools.partial(compile_traced, GraphKind.BACKWARD),
    }
    if kept:
        from djinn_fx.saved.torch_cache import cacheable

        compilers = {name: cacheable(compiler) for name, compiler in compilers.items()}
    backend = aot_autograd(
        **compilers,
        partition_fn=partition,
        keep_inference_input_mutations=True,
        decompositions=decompositions(),
    )
    compiled: Callable[..., Any] = backend(gm, example_inputs)
    return compiled
