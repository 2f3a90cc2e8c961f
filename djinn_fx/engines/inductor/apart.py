"""Operations that Inductor computes otherwise than torch for some numbers, so that they are left to torch's kernels.

Its vectors' ``expm1`` is ``exp(x) - 1``, its remainder loses the sign of zero, its quotients of infinity are infinite:
each was found by comparing every operator with eager over numbers of all kinds (torch 2.13). Inductor calls torch's own
kernel there; what is before and after is still fused. Bounds of zero, which are frequent (relu6), are written
as comparisons instead: a maximum takes -0.0 for 0.0.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from djinn_fx.engines.inductor import forms as inductor_forms
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
    upsample_trilinear3d upsample_bicubic2d lerp prod aminmax addmv nextafter
    """.split()
)
#: Torch brings their indices into range, Inductor reads and writes wherever they lead. Models do not call them.
_UNSAFE = frozenset({"aten._unsafe_masked_index", "aten._unsafe_masked_index_put_accumulate"})
#: Of two zeros they choose one by its place in a vector; no zero of these operands has a sign.
_EXTREMES = frozenset({"aten.amax", "aten.amin", "aten.max", "aten.min"})
_OF_TWO = frozenset({"aten.maximum", "aten.minimum"})
_UNSIGNED = frozenset(f"aten.{name}" for name in "abs exp exp2 sigmoid _softmax".split())
#: And these have one only where they were given it, which convolutions do not give them.
_POSITIVE = frozenset({"aten.relu", "aten.hardtanh"})
#: What they give for other strides, torch's rules for fake tensors do not know.
_CONTIGUOUS = frozenset(
    f"aten.{name}" for name in "native_group_norm adaptive_max_pool2d adaptive_max_pool3d grid_sampler_2d".split()
)
#: Where mean and variance are computed, numbers near the type's ends overflow elsewhere.
_STATISTICS = frozenset(
    f"aten.{name}"
    for name in """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional _batch_norm_with_update
    _batch_norm_with_update_functional
    """.split()
)
#: Of two zeros they choose one or another; of several NaN a place, which matters where it is asked for.
_PLACES = frozenset({"aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices"})
#: A vector's cast ends at the type's ends; torch's wraps around.
_CASTS = frozenset({"aten._to_copy", "prims.convert_element_type"})
#: Torch begins a sum with 0.0; a few summands Inductor adds up as they are, and all of them may be -0.0.
_FEW_SUMMANDS = frozenset(
    f"aten.{name}"
    for name in "sum mean avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d mm bmm mv dot vdot".split()
)
_FEW = 16
#: Products, of which Inductor writes out some that are small.
_PRODUCTS = frozenset(f"aten.{name}" for name in "mm bmm mv dot vdot".split())


def left_to_torch(gm: GraphModule, *, inference: bool = True) -> bool:
    """Change a graph so that Inductor computes such operations as torch does; whether there were any.

    Args:
        gm: changed.
        inference: in training, normalisations by a batch and the places of maxima are left to Inductor.
    """
    found = False
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            continue
        results = tensors_of(fake_value(node))
        name = target_name(node.target).rpartition(".")[0]
        if name in _CASTS and (_wraps_around(node, results[0].dtype) or _is_dropped(node, results[0].dtype)):
            node.target = apart(node.target)
            found = True
        if name in inductor_forms.ROUNDING:
            found = inductor_forms.rounded_number(node) or found
        if name in _UNSAFE:
            node.target = apart(node.target)
            found = True
        if not results or not results[0].is_floating_point():
            continue
        if name == "aten.native_layer_norm" and node.args[3] is None:
            for user in [one for one in node.users if one.args[1] == 0]:
                inductor_forms.plus_zero(gm, user)
                found = True
        if inductor_forms.batch_norm(gm, name, node):
            found = True
        elif (inference and _is_apart_in_inference(name, node)) or _is_apart(name, node, results[0].dtype):
            _tensors_only(gm, node, results[0].dtype)
            node.target = apart(node.target)
            found = True
        elif name == "aten.mul" and node.args[1] == 0 and type(node.args[1]) is int:
            node.args = (node.args[0], 0.0)  # Inductor takes a product with 0 for 0, but not one with 0.0
            found = True
        elif name == "aten.gelu":
            found = inductor_forms.gelu(gm, node) or found
        elif name in _FEW_SUMMANDS | _PRODUCTS and _sums_few(name, node):
            inductor_forms.plus_zero(gm, node)
            found = True
        elif name in ("aten.clamp", "aten.clamp_min", "aten.clamp_max", "aten.hardtanh"):
            found = inductor_forms.compared(gm, name, node) or found
    if found:
        gm.recompile()
    return found


def _is_apart_in_inference(name: str, node: Node) -> bool:
    if name not in _STATISTICS | _PLACES or not fake_value(node.args[0]).is_contiguous():  # type: ignore[arg-type]
        return False
    if name in _STATISTICS:
        return len(node.args) < 6 or node.args[5] is not False  # else mean and variance are given
    placed = any(user.target is operator.getitem and user.args[1] == 1 for user in node.users)
    return placed or _operand(node) not in _UNSIGNED | _POSITIVE


def _is_apart(name: str, node: Node, dtype: torch.dtype) -> bool:
    if name in _CONTIGUOUS:
        return bool(fake_value(node.args[0]).is_contiguous())  # type: ignore[arg-type]
    if name in _APART:
        return True
    if name in _EXTREMES:
        return _operand(node) not in _UNSIGNED
    if name == "aten.erf":
        return dtype is torch.float32 and not all(map(_outweighs, node.users))
    if name in _PRODUCTS:  # of halves, a sum with 0.0 comes too late: what is tiny was rounded to a zero of some sign
        return dtype in _HALF and _multiplies_few(name, node)
    if name == "aten.addmm":
        return _is_one_small_row(node)
    if name in _OF_TWO:
        return not any(map(_is_no_signed_zero, node.args))
    if name == "aten.native_dropout_backward":  # of whole numbers torch's zeros have no sign
        return not fake_value(node.args[0]).is_floating_point()  # type: ignore[arg-type]
    if name == "aten.div":
        return node.kwargs.get("rounding_mode") == "floor"
    if name == "aten.pow":
        power = node.args[1]
        broken = not isinstance(power, int) and not (isinstance(power, float) and power.is_integer())
        return power == -0.5 if isinstance(power, float) and dtype not in _HALF else dtype in _HALF and broken
    return False


def _outweighs(user: Node) -> bool:
    """Whether a number is added beside which the tiniest ones do not count, as in a gelu."""
    name = target_name(user.target).rpartition(".")[0] if user.op == "call_function" else ""
    return name == "aten.add" and isinstance(user.args[1], (int, float)) and abs(user.args[1]) >= 0.5


def _is_one_small_row(node: Node) -> bool:
    """Whether Inductor writes a product with a bias out: torch begins with the bias, it does not."""
    rows, (many, columns) = fake_value(node.args[1]).shape[0], fake_value(node.args[2]).shape  # type: ignore[arg-type]
    small = all(type(size) is not int or size <= _FEW for size in (many, columns))
    return bool(rows == 1 and (columns == 1 or small)) if type(rows) is int else False


def _is_no_signed_zero(operand: Any) -> bool:
    if not isinstance(operand, Node) or operand.op != "call_function":
        return False
    name = target_name(operand.target).rpartition(".")[0]
    return name in _UNSIGNED or (name == "aten.full" and bool(operand.args[1] != 0))


def _operand(node: Node) -> str:
    """The operation that a node's first operand comes from; of an argument none."""
    operand: Any = node.args[0]
    return target_name(operand.target).rpartition(".")[0] if operand.op == "call_function" else ""


def _is_dropped(node: Node, dtype: torch.dtype) -> bool:
    """Whether a rounding to half precision may be left out, where Inductor cannot be told to keep it."""
    before = fake_value(node.args[0]).dtype  # type: ignore[arg-type]
    return dtype in _HALF and before.is_floating_point and before is not dtype and not _keeps_casts()


@functools.cache
def _keeps_casts() -> bool:
    """Whether ``emulate_precision_casts`` reaches a cast the user wrote: torch 2.11 drops it all the same."""
    from torch._inductor.fx_passes import joint_graph

    return hasattr(joint_graph, "_is_lossless_fp_widening_cast")


@functools.cache
def keep_roundings() -> None:
    """Have C++ kernels round between two operations where ``emulate_precision_casts`` asks for it, as from torch 2.13.

    Before, a kernel that has a number rounded and not rounded reads it not rounded.
    """
    if _keeps_casts():
        return
    from torch._inductor import config
    from torch._inductor.codegen.cpp import CppKernel

    kernel: Any = CppKernel
    take_not_rounded = kernel.cache_dtype_convert

    def as_asked(self: Any, *args: Any) -> None:
        if not config.emulate_precision_casts:
            take_not_rounded(self, *args)

    kernel.cache_dtype_convert = as_asked


def _wraps_around(node: Node, dtype: torch.dtype) -> bool:
    """Whether a cast to a narrow integer may meet floating numbers that the type does not hold."""
    source: Any = node.args[0]
    if dtype not in (torch.int8, torch.uint8) or not fake_value(source).is_floating_point():
        return False
    least, most = limits(dtype)
    name = target_name(source.target).rpartition(".")[0] if source.op == "call_function" else ""
    low, high = inductor_forms.ends(name, source) if name in ("aten.clamp", "aten.hardtanh") else (None, None)
    bounded = isinstance(low, (int, float)) and isinstance(high, (int, float)) and least <= low and high <= most
    return not bounded


def _sums_few(name: str, node: Node) -> bool:
    if name in _PRODUCTS:
        return _multiplies_few(name, node)
    if name not in ("aten.sum", "aten.mean"):
        return True
    before, after = fake_value(node.args[0]), tensors_of(fake_value(node))[0]  # type: ignore[arg-type]
    sizes = (*before.shape, *after.shape)
    if any(type(size) is not int for size in sizes):
        return any(size == 1 for size in before.shape if type(size) is int)
    return bool(before.numel() <= _FEW * after.numel())


def _multiplies_few(name: str, node: Node) -> bool:
    """Whether a product may be written out, as products or as a few of their sums, by Inductor."""
    left, right = (fake_value(one) for one in node.args[:2])  # type: ignore[arg-type]
    many = left.shape[-1]
    if type(many) is not int or many > _FEW:
        return False
    if right.dim() == 1:
        return True
    (rows, columns), single = (left.shape[-2], right.shape[-1]), many == 1
    if name == "aten.mm" and left.dtype not in _HALF:
        single = False  # torch begins such a product of float32 with no 0.0 either
    return single or (type(rows) is int and rows == 1 and type(columns) is int and columns == 1)


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
