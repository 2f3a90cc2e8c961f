"""Building an Inductor artefact in a child process, from plain data. See ``pool.jobs.WORKERS``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.inductor import flags as inductor_flags
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.engines.inductor.prewarm import know_vector_units
from djinn_fx.engines.keys import Guards, symbolic_inputs
from djinn_fx.errors import EngineError
from djinn_fx.pool.jobs import BuildError
from djinn_fx.srg.form.hashing import structural_hash
from djinn_fx.srg.form.rebuild import CannotRebuild, Rebuilt, SizeHint, rebuild


def build(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Compile the region that a request of ``InductorEngine.request`` describes.

    Changes the switches of the whole process to those in the request.

    Args:
        request: see ``InductorEngine.request``.
        blobs: none are expected.

    Returns:
        The artefact's header, with the ``guards`` under which it is valid, and its bytes.

    Raises:
        BuildError: the region cannot be rebuilt, this process cannot be made to generate the code the parent's key
            stands for, or Inductor failed.
    """
    engine = _engine_as_asked(request)
    made = _rebuilt(request)
    region = RegionGraph(
        gm=made.gm,
        structural_hash=structural_hash(request["form"]),
        canonical=request["form"],
        example_inputs=made.example_inputs,
        label=str(request["label"]),
        kind=str(request["kind"]),
    )
    refusal = engine.supports(region)
    if refusal is not None:
        raise BuildError(refusal.detail, stage="support")
    symints = symbolic_inputs(region.example_inputs)
    if len(symints) != request["symbols"]:
        raise BuildError(f"{len(symints)} symbolic sizes came out of {request['symbols']}", stage="support")
    know_vector_units()
    try:
        artefact = engine.compile(region)
    except EngineError as error:
        raise BuildError(str(error), stage="build") from error
    if artefact.payload is None:
        raise BuildError(f"inductor's artefact of {region.label} cannot be stored", stage="build")
    return {**artefact.header, "guards": Guards.of(symints).expression}, artefact.payload


def _engine_as_asked(request: Mapping[str, Any]) -> InductorEngine:
    """The engine, in a process whose switches are the parent's.

    Raises:
        BuildError: they cannot be made equal.
    """
    from torch._inductor import config

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(request["cache_dir"])
    try:
        inductor_flags.apply(request["switches"])
    except Exception as error:  # torch's setters raise what they like; it ends the build
        raise BuildError(f"a switch cannot be set here: {type(error).__name__}: {error}", stage="support") from error
    # The pool bounds how many builds run; Inductor's own pool would start a process per core under each.
    config.compile_threads = 1
    engine = InductorEngine(mode=str(request["mode"]), fallback_random=bool(request["fallback_random"]))
    mine, wanted = dict(engine.fingerprint()), dict(request["fingerprint"])
    if mine != wanted:
        names = sorted(name for name in {*mine, *wanted} if mine.get(name) != wanted.get(name))
        raise BuildError(f"the child's engine differs from this process's in: {', '.join(names)}", stage="support")
    return engine


def _rebuilt(request: Mapping[str, Any]) -> Rebuilt:
    try:
        hints = [SizeHint(value=int(value), positive=positive) for value, positive in request["hints"]]
        for device in request["devices"].values():
            if torch.device(device).type == "cuda" and not torch.cuda.is_available():
                raise CannotRebuild("no CUDA device is here")
        return rebuild(request["form"], hints=hints, devices=request["devices"])
    except CannotRebuild as error:
        raise BuildError(f"the region cannot be rebuilt: {error}", stage="support") from error
