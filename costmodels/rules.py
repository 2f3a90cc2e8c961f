"""How many floating-point operations an op does: one rule an op, found by its name and its tags.

Contractions, convolutions and attention use the formulas of ``torch.utils.flop_counter`` (a multiply-add is two
operations); everything else is counted per element and is bound by memory anyway. Sizes are the example's (hints):
no formula ever sees a symbolic size, so no rule adds a guard.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Node
from torch.utils.flop_counter import flop_registry

from djinn_fx.costmodels.attention import ATTENTION, Shape, attention_operations, shape_of, tensor_of
from djinn_fx.costmodels.tables import MOVES, NO_WORK, PER_INPUT, PER_OUTPUT, REDUCTIONS, names
from djinn_fx.srg.graph import fake_value, size_hint, tensors_of

#: Operations of one op, from its node; raises if the arguments are not what the rule knows.
Rule = Callable[[Node], int]


def is_free(node: Node) -> bool:
    """Whether the op does nothing at run time: bookkeeping on sizes, unpacking, allocation without a value."""
    return _is_free(node.target)


@functools.lru_cache(maxsize=4096)
def _is_free(target: Any) -> bool:
    if isinstance(target, OpOverload):
        return _packet(target) in NO_WORK or torch.Tag.inplace_view in target.tags
    module = getattr(target, "__module__", "") or ""
    return not isinstance(target, HigherOrderOperator) and (
        module in ("_operator", "operator", "math")
        or module.startswith(("torch.fx.", "torch.utils._sympy"))
        or getattr(target, "__name__", "").startswith("sym_")
    )


@functools.lru_cache(maxsize=4096)
def rule_of(target: Any) -> Rule | None:
    """The rule for a call target; None where there is none. An op in place goes by the rule of its twin."""
    name = _packet(target) if isinstance(target, OpOverload) else str(getattr(target, "__name__", ""))
    bare = name.removeprefix("aten.")
    if bare in ATTENTION:
        return functools.partial(attention_operations, ATTENTION[bare])
    if not isinstance(target, OpOverload):
        return None
    return (
        _named_rule(name, target)
        or _tagged_rule(bare, target)
        or (_named_rule(name.rstrip("_"), target) if name.endswith("_") else None)
    )


def _named_rule(name: str, target: OpOverload) -> Rule | None:
    """A rule from the tables, ours or torch's."""
    if name in MOVES:
        return _no_operations
    bare = name.removeprefix("aten.") if name.startswith("aten.") else ""
    if bare in _OWN:
        return _OWN[bare]
    formula = flop_registry.get(target.overloadpacket)
    if formula is not None:  # without its wrapper, which would take tensors: it is given shapes here
        return functools.partial(_formula, getattr(formula, "__wrapped__", formula))
    if bare in PER_INPUT:
        return functools.partial(_per_input, PER_INPUT[bare])
    if bare in PER_OUTPUT:
        return functools.partial(_per_output, PER_OUTPUT[bare])
    return None


def _tagged_rule(bare: str, target: OpOverload) -> Rule | None:
    """A rule from what torch says of the op: elementwise, or a reduction."""
    if torch.Tag.pointwise in target.tags or target.namespace == "quantized_decomposed":
        return functools.partial(_per_output, 1)
    # torch.Tag.reduction is younger than the oldest torch this package supports
    if getattr(torch.Tag, "reduction", None) in target.tags or bare in REDUCTIONS:
        return functools.partial(_per_input, 1)
    return None


def _packet(target: OpOverload) -> str:
    return str(target.overloadpacket)


def _hinted(value: Any) -> Any:
    """An argument as a formula wants it: a shape for a tensor, an int for a symbolic one."""
    if isinstance(value, Node):
        return _hinted(fake_value(value))
    if isinstance(value, torch.Tensor):
        return shape_of(value)
    if isinstance(value, torch.SymInt):
        return size_hint(value)
    if isinstance(value, (list, tuple)):
        return [_hinted(item) for item in value]
    return value


def _shapes(node: Node) -> list[Shape]:
    """Shapes of the tensor arguments, in order."""
    return [shape_of(t) for source in node.all_input_nodes for t in tensors_of(fake_value(source))]


def _no_operations(node: Node) -> int:
    return 0


def _per_input(count: int, node: Node) -> int:
    return count * max((math.prod(shape) for shape in _shapes(node)), default=0)


def _output_size(node: Node) -> int:
    """Elements of all outputs."""
    return sum(math.prod(shape_of(tensor)) for tensor in tensors_of(fake_value(node)))


def _per_output(count: int, node: Node) -> int:
    return count * _output_size(node)


def _formula(formula: Callable[..., int], node: Node) -> int:
    kwargs = {name: _hinted(value) for name, value in node.kwargs.items()}
    return int(formula(*map(_hinted, node.args), out_shape=_hinted(fake_value(node)), **kwargs))


def _argument(node: Node, position: int) -> Shape:
    tensor = tensor_of(node.args[position])
    if tensor is None:
        raise ValueError(f"argument {position} is no tensor")
    return shape_of(tensor)


def _contraction(position: int, node: Node) -> int:
    """2 x outputs x length of the contracted last dimension of one argument."""
    return 2 * _output_size(node) * (_argument(node, position) or (1,))[-1]


def _addbmm(node: Node) -> int:
    batch, rows, inner = _argument(node, 1)
    return 2 * batch * rows * inner * _argument(node, 2)[-1]


def _pool(dimensions: int, node: Node) -> int:
    """One operation for each element under the window, for each output."""
    sides: list[int] = list(_hinted(node.args[1]))
    window = math.prod(sides * dimensions if len(sides) == 1 else sides)
    return window * math.prod(shape_of(tensors_of(fake_value(node))[0]))


def _fft(node: Node) -> int:
    """5 n log2(n) over the transformed dimensions (the usual count for a complex transform)."""
    shape = max(_argument(node, 0), shape_of(tensors_of(fake_value(node))[0]), key=math.prod)
    length = math.prod(shape[dim] for dim in _hinted(node.args[1]))
    return round(5 * math.prod(shape) * math.log2(max(2, length)))


#: Ops with a rule of ours, because torch's table has none.
_OWN: dict[str, Rule] = {
    **{
        name: functools.partial(_contraction, 0)
        for name in names("linear matmul mv dot vdot _int_mm _weight_int8pack_mm _weight_int4pack_mm _grouped_mm")
    },
    "addmv": functools.partial(_contraction, 1),
    "addbmm": _addbmm,
    "addr": functools.partial(_per_output, 2),
    "outer": functools.partial(_per_output, 1),
    "max_pool2d_with_indices": functools.partial(_pool, 2),
    "max_pool3d_with_indices": functools.partial(_pool, 3),
    "avg_pool1d": functools.partial(_pool, 1),
    "avg_pool2d": functools.partial(_pool, 2),
    "avg_pool3d": functools.partial(_pool, 3),
    "_fft_r2c": _fft,
    "_fft_c2r": _fft,
    "_fft_c2c": _fft,
}
