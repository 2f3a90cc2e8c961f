"""Graphs as one region, and real values for its inputs: the same sizes, strides and sharing of memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.base import RegionGraph
from djinn_fx.srg import SRG
from djinn_fx.srg.form.hashing import canonical_form, structural_hash
from tests.running import cut_by_labels


def whole(srg: SRG, kind: str = "inference") -> RegionGraph:
    """A graph as one region with its form and hash."""
    cut_by_labels(srg, [0 for _ in srg.ops])
    region = srg.regions[0]
    nodes, inputs, outputs = (
        [srg.node(name) for name in names] for names in (region.nodes, region.inputs, region.outputs)
    )
    form = canonical_form(nodes, inputs, outputs)
    graph = region_graph(srg, region)
    return replace(graph, structural_hash=structural_hash(form), canonical=form, kind=kind)


def concrete(examples: Sequence[Any], seed: int = 0, sizes: dict[str, int] | None = None) -> list[Any]:
    """One value for each example.

    Args:
        examples: fake tensors, SymInts and numbers.
        seed: of the numbers.
        sizes: other values than the example's for symbols, by their text.
    """
    generator = torch.Generator().manual_seed(seed)

    def number(size: Any) -> int:
        if not isinstance(size, torch.SymInt):
            return int(size)
        expr = size.node.expr
        env = size.node.shape_env
        hints = getattr(env, "backed_var_to_val", None) or env.var_to_val  # older torch: under the other name
        known = {s: (sizes or {}).get(str(s), hints[s]) for s in expr.free_symbols}
        return int(expr.xreplace(known))

    def reach(tensor: torch.Tensor) -> int:
        shape, strides = map(number, tensor.shape), map(number, tensor.stride())
        steps = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
        return max(0, number(tensor.storage_offset()) + 1 + sum(steps))

    lengths: dict[int, int] = {}
    for value in examples:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()._cdata
            lengths[storage] = max(lengths.get(storage, 0), reach(value))
    memory: dict[int, torch.Tensor] = {}
    made: list[Any] = []
    for value in examples:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()._cdata
            if storage not in memory:
                memory[storage] = _numbers(lengths[storage], value.dtype, generator)
            shape, strides = [*map(number, value.shape)], [*map(number, value.stride())]
            made.append(memory[storage].as_strided(shape, strides, number(value.storage_offset())))
        else:
            made.append(number(value) if isinstance(value, torch.SymInt) else value)
    return made


def copied(values: Sequence[Any]) -> list[Any]:
    """The same values in memory of their own; what is shared stays shared."""
    return copy.deepcopy(list(values))


def _numbers(length: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.rand(length, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 2, (length,), generator=generator).to(dtype)
