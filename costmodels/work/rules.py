"""How many operations an op does: one rule an op, found by its name and its tags.

Matrix products, convolutions and attention count as ``torch.utils.flop_counter`` does (a multiply-add is two
operations); everything else counts per element. A rule sees numbers only, so none can add a guard to a graph.

The order in which a rule is looked for: a user's own, ours by name, torch's own formula, what torch's tags say, the
same for the twin of an op in place. Where nothing is found, the op is decomposed (:mod:`.decomposed`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Node
from torch.utils.flop_counter import flop_registry

from djinn_fx.costmodels.work.attention import ATTENTION, attention_rule
from djinn_fx.costmodels.work.call import Call, Count, Counted, CountRule, numbers, numel
from djinn_fx.costmodels.work.contractions import CONTRACTIONS, CONVOLUTIONS, DISTANCES
from djinn_fx.costmodels.work.sizes import times_log2
from djinn_fx.costmodels.work.tables import PerElement, op_tables
from djinn_fx.srg.record import TensorMeta

#: Namespaces whose ops go by the names of aten's; transformers has an own ``grouped_mm_fallback``.
_SPACES = (
    "aten",
    "prims",
    "transformers",
    "_c10d_functional",
    "_c10d_functional_autograd",
    "c10d_functional",
    "c10d",
    "_dtensor",
)


@dataclass(frozen=True, slots=True)
class OpRule:
    """What is known of one op.

    Attributes:
        kind: of its work.
        count: operations and sides of one call.
        user: a user's rule, which may tell the kind and the bytes too; then ``count`` is not used.
    """

    kind: str
    count: CountRule
    user: Callable[[Call], Count] | None = None


#: Rules of users by op; filled by :mod:`djinn_fx.costmodels.work.user_rules`.
USER_RULES: dict[Any, Callable[[Call], Count]] = {}


def is_free(node: Node) -> bool:
    """Whether the op does nothing at run time, not even a call: bookkeeping on sizes, unpacking of tuples."""
    return free_target(node.target)


@functools.lru_cache(maxsize=4096)
def free_target(target: Any) -> bool:
    """The same, by what is called."""
    if isinstance(target, OpOverload):
        return packet(target) in op_tables().no_work
    module = getattr(target, "__module__", "") or ""
    return not isinstance(target, HigherOrderOperator) and (
        module in ("_operator", "operator", "math")
        or module.startswith(("torch.fx.", "torch.utils._sympy", "torch.sym_"))
        or getattr(target, "__name__", "").startswith("sym_")
    )


@functools.lru_cache(maxsize=4096)
def touches_nothing(target: Any) -> bool:
    """Whether an op is called but reads and writes no element: it allocates, or changes a tensor's description."""
    return isinstance(target, OpOverload) and (
        packet(target) in op_tables().no_traffic or torch.Tag.inplace_view in target.tags
    )


@functools.lru_cache(maxsize=4096)
def packet(target: Any) -> str:
    """An op's name without the overload: ``"aten.addmm"``; a higher-order op's with its namespace."""
    if isinstance(target, OpOverload):
        return str(target.overloadpacket)
    if isinstance(target, HigherOrderOperator):
        return f"higher_order.{target.name()}"
    return str(getattr(target, "__name__", target))


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """All that is known of what a node calls, apart from the node.

    Attributes:
        op: its name without the overload.
        is_free: it does nothing at run time, not even a call.
        touches_nothing: it is called but reads and writes no element.
        is_higher: it is a higher-order op.
        rule: None where there is none.
    """

    op: str
    is_free: bool
    touches_nothing: bool
    is_higher: bool
    rule: OpRule | None


@functools.lru_cache(maxsize=4096)
def facts_of(target: Any) -> TargetFacts:
    """The facts of a call target: looked up once an op, as hashing a target is slow."""
    higher = isinstance(target, HigherOrderOperator)
    return TargetFacts(packet(target), free_target(target), touches_nothing(target), higher, rule_of(target))


def forget_facts() -> None:
    """Look every rule up anew: a user's has come or gone."""
    rule_of.cache_clear()
    facts_of.cache_clear()


@functools.lru_cache(maxsize=4096)
def rule_of(target: Any) -> OpRule | None:
    """The rule for a call target; None where there is none. An op in place goes by the rule of its twin."""
    own = USER_RULES.get(target) or USER_RULES.get(getattr(target, "overloadpacket", None))
    if own is not None:
        return OpRule("other", _nothing, own)
    space, _, bare = packet(target).rpartition(".")
    if isinstance(target, HigherOrderOperator):
        return _named(bare) if bare in ATTENTION else None
    if not isinstance(target, OpOverload):
        return None
    own_space = space in _SPACES
    return (
        (_named(bare) if own_space else None)
        or _by_torch(target)
        or (_named(bare.rstrip("_")) if own_space and bare.endswith("_") else None)
        or (_foreach(bare) if own_space else None)
        or _tagged(bare, target)
    )


def _named(bare: str) -> OpRule | None:
    """A rule from our tables."""
    if bare in ATTENTION:
        return OpRule("attention", functools.partial(attention_rule, ATTENTION[bare]))
    for kind, table in (("matmul", CONTRACTIONS), ("conv", CONVOLUTIONS), ("other", DISTANCES), ("pool", _POOLS)):
        if bare in table:
            return OpRule(kind, table[bare])
    if bare in op_tables().sorts:
        return OpRule("sort", _sort)
    if bare in op_tables().factorisations:
        return OpRule("other", functools.partial(_factorisation, op_tables().factorisations[bare]))
    if bare.startswith("_fft_"):
        return OpRule("fft", _fft)
    if bare in ("pow", "_foreach_pow"):
        return OpRule("elementwise", _power)
    entry = op_tables().per_element.get(bare)
    return _per_element(entry) if entry is not None else None


def _foreach(bare: str) -> OpRule | None:
    """``_foreach_add`` does what ``add`` does, for every tensor of a list."""
    if not bare.startswith("_foreach_"):
        return None
    entry = op_tables().per_element.get(bare.removeprefix("_foreach_").rstrip("_"), PerElement("elementwise", "out", 1))
    return OpRule("elementwise", functools.partial(_whole_list, entry))


def _by_torch(target: OpOverload) -> OpRule | None:
    """A formula from torch's table that is not in ours: a user's, or one of a younger torch."""
    formula = flop_registry.get(target.overloadpacket)
    if formula is None:
        return None
    # without its wrapper, which would take tensors: it is given shapes here
    return OpRule("matmul", functools.partial(_formula, getattr(formula, "__wrapped__", formula)))


def _tagged(bare: str, target: OpOverload) -> OpRule | None:
    """A rule from what torch says of the op: elementwise, or a reduction."""
    if torch.Tag.pointwise in target.tags or target.namespace == "quantized_decomposed":
        return _per_element(PerElement("elementwise", "out", 1))
    # torch.Tag.reduction is younger than the oldest torch this package supports
    if getattr(torch.Tag, "reduction", None) in target.tags or bare in op_tables().reductions:
        return _per_element(PerElement("reduction", "in", 1))
    return None


# -- counting per element -----------------------------------------------------------------------------------------


def _nothing(call: Call) -> Counted:
    return 0, 0, 0, ()


def _per_element(entry: PerElement) -> OpRule:
    sides = _SIDES.get(entry.kind)
    return OpRule(entry.kind, functools.partial(_counted, entry, sides))


def _counted(entry: PerElement, sides: Callable[[Call], tuple[int, ...]] | None, call: Call) -> Counted:
    vector, special = entry.vector, entry.special
    shape = sides(call) if sides is not None else ()
    if not vector and not special:
        return 0, 0, 0, shape
    count = _elements(entry.of, call)
    return 0, vector * count, special * count, shape


def _elements(of: str | int, call: Call) -> int:
    if of == "out":
        metas = call.outputs or call.inputs[:1]
        return numel(metas[0]) if metas else 0
    if of == "in":
        return numel(call.inputs[0]) if call.inputs else 0
    if of == "outs":
        return sum(map(numel, call.outputs or call.inputs))
    value = call.argument(int(of))
    if isinstance(value, TensorMeta):
        return numel(value)
    return numel(call.inputs[-1]) if call.inputs else 0  # a number written to every place that the index names


def _whole_list(entry: PerElement, call: Call) -> Counted:
    count = sum(map(numel, call.outputs or call.inputs))
    return 0, entry.vector * count, entry.special * count, ()


def _dim_sides(place: int, call: Call) -> tuple[int, ...]:
    """(rows, length) along the dimension that an argument names, else the last."""
    shape = numbers(call.inputs[0].shape)
    if not shape:
        return 1, 1
    dim = call.argument(2 if call.op.endswith("_backward_data") else place, "dim", -1)
    length = shape[dim] if isinstance(dim, int) and -len(shape) <= dim < len(shape) else shape[-1]
    rows = math.prod(shape)
    return _divided(rows, length), length


def _reduction_sides(call: Call) -> tuple[int, ...]:
    """(results, elements for each)."""
    rows = numel(call.outputs[0]) if call.outputs else 1
    return rows, _divided(numel(call.inputs[0]), rows)


def _norm_sides(call: Call) -> tuple[int, ...]:
    """(rows, length): layer norms by the normalised shape, group norms by group, batch norms by channel."""
    shape, bare = numbers(call.inputs[0].shape), call.op.rpartition(".")[2]
    elements = math.prod(shape)
    if "layer_norm" in bare or "rms_norm" in bare:
        places = call.argument(2 if bare.endswith("_backward") else 1, "normalized_shape") or shape[-1:]
        length = math.prod(places)
        return _divided(elements, length), length
    if "group_norm" in bare:
        groups = call.argument(1 if bare == "group_norm" else 8 if bare.endswith("_backward") else 6, "group", 1)
        rows = shape[0] * groups
        return rows, _divided(elements, rows)
    rows = shape[1] if len(shape) > 1 else 1
    return rows, _divided(elements, rows)


def _divided(number: Any, by: Any) -> Any:
    if type(by) is int and by == 0:
        return 0
    return number // by


#: No call has so many arguments: the dimension is given by name, or is the last.
_NO_PLACE = 99

_SIDES: dict[str, Callable[[Call], tuple[int, ...]]] = {
    "softmax": functools.partial(_dim_sides, 1),
    "scan": functools.partial(_dim_sides, 1),
    "reduction": _reduction_sides,
    "norm": _norm_sides,
}


# -- ops with a formula of their own ------------------------------------------------------------------------------


def _formula(formula: Callable[..., int], call: Call) -> Counted:
    shaped = functools.partial(_shaped, call)
    kwargs = {name: shaped(value) for name, value in call.node.kwargs.items()}
    outputs = [list(meta.shape) for meta in call.outputs]
    out_shape = outputs[0] if len(outputs) == 1 else outputs
    return int(formula(*map(shaped, call.node.args), out_shape=out_shape, **kwargs)), 0, 0, ()


def _shaped(call: Call, argument: Any) -> Any:
    """An argument as torch's formulas want it: a shape for a tensor."""
    value = call.sizes.argument(argument)
    if isinstance(value, TensorMeta):
        return list(value.shape)
    if isinstance(value, list):
        return [list(item.shape) if isinstance(item, TensorMeta) else item for item in value]
    return value


#: Position of the dimension in the ops that take one; the others sort along the last.
_DIM_PLACES = {"sort": 1, "argsort": 1, "mode": 1, "median": 1, "nanmedian": 1, "topk": 2, "kthvalue": 2, "quantile": 2}


def _sort(call: Call) -> Counted:
    """n log2(n) comparisons a row; of the k largest, n log2(k)."""
    bare = call.op.rpartition(".")[2]
    if not call.inputs:  # randperm
        count = numel(call.outputs[0])
        return 0, times_log2(count, count), 0, (1, count)
    rows, length = _dim_sides(_DIM_PLACES.get(bare, _NO_PLACE), call)
    chosen = call.argument(1, "k", length) if bare == "topk" else length
    return 0, times_log2(rows * length, chosen), 0, (rows, length)


def _power(call: Call) -> Counted:
    """A small whole power is multiplications; any other is a special function."""
    count = sum(map(numel, call.outputs or call.inputs))
    exponent = call.argument(1, "exponent")
    if isinstance(exponent, (int, float)) and exponent in (-3, -2, -1, 0, 1, 2, 3):
        return 0, count * max(1, int(abs(exponent)) - 1), 0, ()
    return 0, 0, count, ()


def _pool(dimensions: int, call: Call) -> Counted:
    """One operation for each element under the window, for each output."""
    given = call.argument(1, "kernel_size")
    sides = list(given) if isinstance(given, (list, tuple)) else [given]
    window = math.prod(sides * dimensions if len(sides) == 1 else sides)
    return 0, window * numel(call.outputs[0]), 0, ()


_POOLS: dict[str, CountRule] = {
    f"{kind}_pool{dimensions}d{suffix}": functools.partial(_pool, dimensions)
    for dimensions in (1, 2, 3)
    for kind, suffix in (("max", ""), ("max", "_with_indices"), ("avg", ""), ("mkldnn_max", ""))
}


def _factorisation(times: int, call: Call) -> Counted:
    """So many times m n min(m, n) for every matrix [m, n] of a batch."""
    shape = numbers(max(call.inputs, key=lambda meta: len(meta.shape)).shape)
    *batch, m, n = shape if len(shape) >= 2 else (1, *shape, 1)[-2:]
    smaller = min(m, n) if isinstance(m, int) and isinstance(n, int) else n
    return 0, times * math.prod(batch) * m * n * smaller, 0, ()


def _fft(call: Call) -> Counted:
    """5 n log2(n) over the transformed dimensions (the usual count for a complex transform)."""
    shape = call.output_shape() if call.op.endswith("c2r") else call.shape(0)  # the longer of the two
    length = math.prod(shape[dim] for dim in call.argument(1, "dim"))
    return 0, times_log2(5 * math.prod(shape), length), 0, ()
