"""A region's own graph run in float64: the judge where an engine and eager disagree.

Every floating tensor is cast up when an op reads it, and dropped again after, so only activations take twice their
memory. Where the graph asks for another floating type, by ``dtype=`` or a cast, it gets float64. What a region rounds
on purpose (a cast to bfloat16 and back) is therefore not rounded here: it counts among eager's own errors.

:meth:`Precise.noisy` runs the same with a random relative error of the graph's own precision on the result of every op
that computes: a sample of what rounding may do to this region with these inputs. Where large numbers cancel it is
large, and eager may have been lucky.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Interpreter, Node

from djinn_fx.guard.tolerance import only_moves
from djinn_fx.srg.effects import is_random, written_arguments
from djinn_fx.srg.graph import fake_value, tensors_of

#: Ops whose result is not a function of real numbers: bits read as another type, memory nobody wrote.
_NO_NUMBERS = frozenset(
    {
        "aten::view.dtype",
        "aten::empty.memory_format",
        "aten::empty_like",
        "aten::empty_strided",
        "aten::new_empty",
        "aten::new_empty_strided",
        "aten::nextafter",
        "aten::frexp.Tensor",
        "prims::view_element_type",
        "prims::nextafter",
        "prims::frexp",
    }
)
#: Ops with a third argument that says "the input is of half precision, make the result float32".
_WIDENING = frozenset({"aten::_softmax", "aten::_log_softmax"})
#: By whether it is complex.
_WIDE = {True: torch.complex128, False: torch.float64}
_SEED = 2008


def fp64_reference(gm: GraphModule) -> Precise | None:
    """The region in float64; None if it has no such form.

    Refused: random numbers (other ones would be drawn), higher-order ops, ops outside ATen and prims (most have no
    float64 kernel), ops that read bits or memory nobody wrote, and graphs that compute no floating number.

    Args:
        gm: placeholders, calls, a tuple of results; writes only by ``aten.copy_`` into placeholders.
    """
    calls = [node for node in gm.graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    if any(not _has_form(node) for node in calls):
        return None
    floats = (t for node in calls for t in tensors_of(fake_value(node)) if t.is_floating_point() or t.is_complex())
    first = next(floats, None)
    return Precise(gm) if first is not None else None


def _has_form(node: Node) -> bool:
    if node.op != "call_function" or is_random(node):
        return False
    if not isinstance(node.target, OpOverload):
        return not isinstance(node.target, torch._ops.HigherOrderOperator)
    return _is_of_numbers(node.target)


@functools.lru_cache(maxsize=4096)
def _is_of_numbers(target: OpOverload) -> bool:
    if written_arguments(target) and target is not torch.ops.aten.copy_.default:
        return False
    return target.namespace in ("aten", "prims") and target.name() not in _NO_NUMBERS


class Precise:
    """A region in float64: takes its arguments as they are, gives floating results in float64.

    Arguments the region writes into are written, rounded to their type; hand over copies.
    """

    def __init__(self, gm: GraphModule) -> None:
        self._gm = gm

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run. Raises whatever an op raises that has no float64 kernel here."""
        return self._run(args, noise=False)

    def noisy(self, args: list[Any]) -> Sequence[Any]:
        """Run with the graph's own rounding, drawn at random, on each number; the same every time."""
        return self._run(args, noise=True)

    def _run(self, args: list[Any], *, noise: bool) -> Sequence[Any]:
        given = tuple(args)
        args.clear()
        with torch.no_grad(), torch._C._DisableAutocast():
            results: Sequence[Any] = _Wide(self._gm, noise).run(*given)
        return results


class _Wide(Interpreter):
    """Runs a graph with every floating number cast up to float64 as an op reads it."""

    def __init__(self, gm: GraphModule, noise: bool) -> None:
        super().__init__(gm)
        self._noise = noise
        self._node: Node | None = None
        self._generators: dict[torch.device, torch.Generator] = {}

    def run_node(self, n: Node) -> Any:
        """One node."""
        self._node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One op."""
        if target is torch.ops.aten.copy_.default:
            return args[0].copy_(args[1])
        wide_args, wide_kwargs = _wide(args), _wide(kwargs)
        if isinstance(target, OpOverload) and target._schema.name in _WIDENING:
            wide_args = (*wide_args[:2], False)
        result = super().call_function(target, wide_args, wide_kwargs)
        computed = self._noise and isinstance(target, OpOverload) and not target.is_view and not only_moves(target)
        if not computed or self._node is None:
            return result
        made = fake_value(self._node)
        if isinstance(result, torch.Tensor):
            return self._rounded(result, made)
        if isinstance(result, (tuple, list)) and isinstance(made, (tuple, list)):
            return type(result)(map(self._rounded, result, made))
        return result

    def _rounded(self, result: Any, made: Any) -> Any:
        """A result with as large an error as its type in the graph may have."""
        if not isinstance(result, torch.Tensor) or result.dtype is not torch.float64:
            return result
        if not isinstance(made, torch.Tensor) or not made.is_floating_point():
            return result
        generator = self._generators.get(result.device)
        if generator is None:
            generator = self._generators[result.device] = torch.Generator(result.device).manual_seed(_SEED)
        half = torch.finfo(made.dtype).eps / 2
        noise = torch.empty(result.shape, dtype=torch.float64, device=result.device)
        return result * (1.0 + noise.uniform_(-half, half, generator=generator))


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        wide = value.is_floating_point() or value.is_complex()
        return value.to(_WIDE[value.is_complex()]) if wide else value
    if isinstance(value, torch.dtype):
        return _WIDE[value.is_complex] if value.is_complex or value.is_floating_point else value
    if isinstance(value, (tuple, list)):
        made = [_wide(item) for item in value]
        return tuple(made) if isinstance(value, tuple) else made
    if isinstance(value, dict):
        return {key: _wide(item) for key, item in value.items()}
    return value
