"""The key of an artefact: the region's structure and everything the engine's result depends on besides it."""

from __future__ import annotations

import functools
import hashlib
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.srg.form.hashing import CANONICAL_SCHEMA
from djinn_fx.srg.form.rebuild import CannotRebuild
from djinn_fx.srg.graph import tensors_of

#: Raised when what an entry holds changes its meaning.
ARTEFACT_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """A key and the fields it was made from; the fields are stored too, so that a miss can be explained."""

    digest: str
    fields: Mapping[str, Any]

    def variant(self, number: int) -> EngineKey:
        """The key of a further artefact for the same region, valid for other sizes."""
        return self if number == 0 else _key({**self.fields, "variant": number})


def engine_key(
    region: RegionGraph, fingerprint: Mapping[str, str], identity: str | None = None, weights: Sequence[int] = ()
) -> EngineKey:
    """The key of a region for an engine.

    The device *index* is not part of the structural hash, but generated code holds it, so it is a field here, with
    what that device is: an engine's fingerprint knows of the current one alone. An engine that says itself what its
    artefact depends on (``identity``, see ``BuildRequest``) has neither: the same plan is made from a region traced
    for a CPU on a build farm and from one traced on the GPU that runs it.

    Args:
        region: the region.
        fingerprint: the engine's.
        identity: see above.
        weights: places of the inputs that the engine copies into what it loads.
    """
    told = {"structural_hash": region.structural_hash, "devices": _devices(region)} if identity is None else {}
    return _key(
        {
            "schema": ARTEFACT_SCHEMA,
            "canonical_schema": CANONICAL_SCHEMA,
            **told,
            **({"identity": identity} if identity is not None else {}),
            "weights": list(weights) or "input",
            "engine": dict(fingerprint),
        }
    )


def _key(fields: Mapping[str, Any]) -> EngineKey:
    return EngineKey(digest=digest_of(fields), fields=fields)


def digest_of(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the fields as JSON; the same in every process."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _devices(region: RegionGraph) -> list[str]:
    return [_with_title(one) for one in device_order(node.meta.get("val") for node in region.gm.graph.nodes)]


@functools.cache
def _with_title(device: str) -> str:
    """A device's name; of a CUDA device that is here, with what the driver calls it and its capability."""
    index = torch.device(device).index
    if not device.startswith("cuda") or index is None or index >= torch.cuda.device_count():
        return device
    found = torch.cuda.get_device_properties(index)
    return f"{device} {found.name} {found.major}.{found.minor}"


def device_order(values: Iterable[Any]) -> tuple[str, ...]:
    """The devices of these values in order of first use: with the structural hash, which device each op is on."""
    return tuple(dict.fromkeys(str(tensor.device) for value in values for tensor in tensors_of(value)))


def device_names(region: RegionGraph) -> dict[str, str]:
    """The device that each numbered one of the region's form is.

    Raises:
        CannotRebuild: it is on several devices of one type; which is which does not show in the form.
    """
    names: dict[str, str] = {}
    for device in map(torch.device, device_order(node.meta.get("val") for node in region.gm.graph.nodes)):
        numbered = device.index is not None and device.type != "cpu"
        if numbered and names.setdefault(f"{device.type}#0", str(device)) != str(device):
            raise CannotRebuild(f"the region is on several devices of the type {device.type}")
    return names


@dataclass(frozen=True, kw_only=True)
class Guards:
    """When an artefact for symbolic sizes may be used.

    Compiling may rely on facts about sizes (``s0 <= 512``). Torch writes them as an expression over the
    region's symbolic inputs; a later user of the artefact must find them true, and by checking them makes its
    own graph depend on them.
    """

    expression: str | None

    @staticmethod
    def of(symints: Sequence[torch.SymInt]) -> Guards:
        """All facts known of these sizes now, that is after compiling."""
        if not symints:
            return Guards(expression=None)
        shape_env = symints[0].node.shape_env
        guards = shape_env.get_pruned_guards(symints)
        return Guards(expression=shape_env.produce_guards_expression(placeholders=symints, guards=guards))

    def accept(self, sizes: Sequence[int]) -> bool:
        """Whether they are true of these numbers, one for each symbolic input. Guards nothing."""
        if self.expression is None:
            return True
        known = {f"t{place}": size for place, size in enumerate(sizes)}
        try:
            # What torch wrote, and evaluates itself with these names (ShapeEnv.evaluate_guards_expression).
            return bool(eval(_code(self.expression), _guard_names(), {"L": known}))
        except KeyError:
            return False  # it speaks of more symbols than there are

    def hold(self, symints: Sequence[torch.SymInt]) -> bool:
        """Whether they are true of these sizes. If so, the current graph is guarded by them."""
        if self.expression is None:
            return True
        if not symints:
            return False
        shape_env = symints[0].node.shape_env
        if not shape_env.evaluate_guards_expression(self.expression, [s.node.hint for s in symints]):
            return False
        return bool(shape_env.evaluate_guards_expression(self.expression, symints))


@functools.lru_cache(maxsize=4096)
def _code(expression: str) -> types.CodeType:
    return compile(expression, "<size guards>", "eval")


@functools.cache
def _guard_names() -> dict[str, Any]:
    from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP

    return dict(SYMPY_INTERP)


def symbol_places(values: Sequence[Any]) -> tuple[tuple[int, int | None], ...]:
    """Where the symbols of :func:`symbolic_inputs` are read off arguments: (argument, dimension), None for itself."""
    known: dict[Any, tuple[int, int | None]] = {}
    for place, value in enumerate(values):
        sizes = enumerate(value.shape) if isinstance(value, torch.Tensor) else ((None, value),)
        for dim, size in sizes:
            if isinstance(size, torch.SymInt) and size.node.hint is not None and size.node.expr.is_symbol:
                known.setdefault(size.node.expr, (place, dim))
    return tuple(known.values())


def symbolic_inputs(values: Iterable[Any]) -> list[torch.SymInt]:
    """The size symbols that a region's inputs tell, each once, in order: inputs themselves, or sizes of tensors.

    To be taken before the region is compiled: compiling may find that a symbol is a number, and then that is a fact
    to be guarded.
    """
    sizes = (size for value in values for size in (value.shape if isinstance(value, torch.Tensor) else (value,)))
    known: dict[Any, torch.SymInt] = {}
    for size in sizes:
        if isinstance(size, torch.SymInt) and size.node.hint is not None and size.node.expr.is_symbol:
            known.setdefault(size.node.expr, size)
    return list(known.values())
