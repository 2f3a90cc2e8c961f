"""Operations that Inductor computes otherwise than torch for some numbers, so that they are left to torch's kernels.

Its vectors' ``expm1`` is ``exp(x) - 1``, its remainder loses the sign of zero, its quotients of infinity are infinite:
each was found by comparing every operator with eager over numbers of all kinds (torch 2.13). Inductor calls torch's own
kernel there; what is before and after is still fused. Bounds of zero, which are frequent (relu6), are written
as comparisons instead: a maximum takes -0.0 for 0.0.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from djinn_fx.engines.ranges.analysis import limits
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.srg.lower import target_name

aten = torch.ops.aten

_LIBRARY = "djinn_fx"
_LIBRARIES: list[Any] = []

_HALF = (torch.float16, torch.bfloat16)
#: Of floating numbers.
_APART = frozenset(
    f"aten.{name}"
    for name in """
    acosh atanh cosh sinh expm1 elu selu celu softshrink fmax fmin remainder floor_divide special_ndtr
    addcmul addcdiv logaddexp2 var std var_mean std_mean nansum upsample_linear1d upsample_bilinear2d
    upsample_trilinear3d upsample_bicubic2d
    """.split()
)
#: A vector's cast ends at the type's ends; torch's wraps around.
_CASTS = frozenset({"aten._to_copy", "prims.convert_element_type"})
#: Torch begins a sum with 0.0; a few summands Inductor adds up as they are, and all of them may be -0.0.
_FEW_SUMMANDS = frozenset(f"aten.{name}" for name in "sum mean avg_pool1d avg_pool2d avg_pool3d".split())
_FEW = 16


def left_to_torch(gm: GraphModule) -> bool:
    """Change a graph so that Inductor computes such operations as torch does; whether there were any."""
    found = False
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            continue
        results = tensors_of(fake_value(node))
        name = target_name(node.target).rpartition(".")[0]
        if name in _CASTS and results[0].dtype in (torch.int8, torch.uint8) and not _is_bounded(node, results[0].dtype):
            node.target = apart(node.target)
            found = True
        if not results or not results[0].is_floating_point():
            continue
        if _is_apart(name, node, results[0].dtype):
            _tensors_only(gm, node, results[0].dtype)
            node.target = apart(node.target)
            found = True
        elif name == "aten.mul" and node.args[1] == 0 and type(node.args[1]) is int:
            node.args = (node.args[0], 0.0)  # Inductor takes a product with 0 for 0, but not one with 0.0
            found = True
        elif name in _FEW_SUMMANDS and _sums_few(name, node):
            _plus_zero(gm, node)
            found = True
        elif name in ("aten.clamp", "aten.clamp_min", "aten.clamp_max", "aten.hardtanh"):
            found = _compared(gm, name, node) or found
    if found:
        gm.recompile()
    return found


def _is_apart(name: str, node: Node, dtype: torch.dtype) -> bool:
    if name in _APART:
        return True
    if name == "aten.gelu":
        return node.kwargs.get("approximate", "none") == "none"
    if name == "aten.div":
        return node.kwargs.get("rounding_mode") == "floor"
    if name == "aten.pow":
        power = node.args[1]
        broken = not isinstance(power, int) and not (isinstance(power, float) and power.is_integer())
        return power == -0.5 if isinstance(power, float) and dtype not in _HALF else dtype in _HALF and broken
    return False


def _is_bounded(node: Node, dtype: torch.dtype) -> bool:
    """Whether a cast's operand holds only numbers that the integer type holds, or is no floating number."""
    source: Any = node.args[0]
    if not fake_value(source).is_floating_point():
        return True
    least, most = limits(dtype)
    name = target_name(source.target).rpartition(".")[0] if source.op == "call_function" else ""
    low, high = _ends(name, source) if name in ("aten.clamp", "aten.hardtanh") else (None, None)
    return isinstance(low, (int, float)) and isinstance(high, (int, float)) and least <= low and high <= most


def _sums_few(name: str, node: Node) -> bool:
    if name not in ("aten.sum", "aten.mean"):
        return True
    before, after = fake_value(node.args[0]), tensors_of(fake_value(node))[0]  # type: ignore[arg-type]
    sizes = (*before.shape, *after.shape)
    if any(type(size) is not int for size in sizes):
        return any(size == 1 for size in before.shape if type(size) is int)
    return bool(before.numel() <= _FEW * after.numel())


def _plus_zero(gm: GraphModule, node: Node) -> None:
    users = list(node.users)
    with gm.graph.inserting_after(node):
        made = _call(gm, aten.add.Scalar, node, 0.0)
    for user in users:
        user.replace_input_with(node, made)


def _tensors_only(gm: GraphModule, node: Node, dtype: torch.dtype) -> None:
    """A graph may give a number where the schema says tensor; an operator of our own must be given one."""
    given, other = list(node.args), next(fake_value(one) for one in node.all_input_nodes)
    # Torch rounds a number to no half, and a tensor without dimensions beside one that has some does not widen it.
    wide = torch.float64 if other.dim() and other.is_floating_point() else dtype
    for place, argument in enumerate(node.target._schema.arguments[: len(given)]):  # type: ignore[union-attr]
        value = given[place]
        if str(argument.type) == "Tensor" and isinstance(value, (int, float)):
            with gm.graph.inserting_before(node):
                made = gm.graph.call_function(aten.scalar_tensor.default, (value,), {"dtype": wide})
            with other.fake_mode:
                made.meta["val"] = aten.scalar_tensor.default(value, dtype=wide)
            given[place] = made
    node.args = tuple(given)


def _compared(gm: GraphModule, name: str, node: Node) -> bool:
    """Write bounds, one of which is 0, as comparisons."""
    low, high = _ends(name, node)
    zero = any(isinstance(end, (int, float)) and end == 0 for end in (low, high))
    if not zero or not all(end is None or isinstance(end, (int, float)) for end in (low, high)):
        return False
    with gm.graph.inserting_before(node):
        value: Any = node.args[0]
        for end, beyond in ((low, aten.lt.Scalar), (high, aten.gt.Scalar)):
            if end is not None:
                outside = _call(gm, beyond, value, end)
                value = _call(gm, aten.masked_fill.Scalar, value, outside, end)
    node.replace_all_uses_with(value)
    gm.graph.erase_node(node)
    return True


def _ends(name: str, node: Node) -> tuple[Any, Any]:
    """Between which ends a call brings its operand."""
    names = {"aten.hardtanh": ("min_val", "max_val"), "aten.clamp_max": ("max",)}.get(name, ("min", "max"))
    ends: dict[str, Any] = {"min_val": -1, "max_val": 1, "min": None, "max": None}
    ends.update(zip(names, node.args[1:], strict=False))
    ends.update(node.kwargs)
    return (ends["min_val"], ends["max_val"]) if name == "aten.hardtanh" else (ends["min"], ends["max"])


def _call(gm: GraphModule, target: Any, *args: Any) -> Node:
    node = gm.graph.call_function(target, args)
    fakes = [fake_value(one) if isinstance(one, Node) else one for one in args]
    with fakes[0].fake_mode:
        node.meta["val"] = target(*fakes)
    return node


@functools.cache
def apart(target: OpOverload) -> OpOverload:
    """An operator that is another one, and for which Inductor calls that one's own kernel."""
    name = f"apart_{target._schema.name.partition('::')[2]}_{target._overloadname}"
    library = torch.library.Library(_LIBRARY, "FRAGMENT")
    _LIBRARIES.append(library)  # an operator lives as long as its library
    schema = str(target._schema)
    library.define(name + schema[schema.index("(") :])
    library.impl(name, target, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{_LIBRARY}::{name}", target, lib=library)
    made: OpOverload = getattr(getattr(torch.ops, _LIBRARY), name).default
    _teach(made, target)
    return made


def _teach(made: OpOverload, target: OpOverload) -> None:
    from torch._inductor import ir
    from torch._inductor.lowering import register_lowering
    from torch.utils._pytree import tree_map

    def call(*args: Any, **kwargs: Any) -> Any:
        return tree_map(ir.TensorBox.create, ir.FallbackKernel.create(target, *args, **kwargs))

    register_lowering(made, type_promotion_kind=None)(call)
