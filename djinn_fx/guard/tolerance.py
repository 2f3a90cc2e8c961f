"""How far two right answers to one question may differ: by element type, and by what a region computes.

With ``e`` eager's values and ``p`` the engine's, two numbers are bounded: ``|p - e| / |e|`` as vectors (``whole``),
and the largest ``|p - e|`` as a share of the largest ``|e|`` (``worst``). The vector bound catches what is wrong as a
whole, the other what is wrong in one place.

    type               moves only    elementwise      sums           unknown, or hundreds of sums
    float64            0             1e-11, 1e-10     1e-9, 1e-8     1e-8, 1e-7
    float32            0             1e-5,  1e-4      2e-4, 2e-3     1e-3, 1e-2
    float32 with TF32  0             1e-5,  1e-4      5e-3, 5e-2     5e-3, 5e-2     (where eager itself may use it)
    ... allow-bf16     as bfloat16                                                  (where the engine may round)
    ... allow-int8-..  as bfloat16   as bfloat16      1e-1, 2e-1     1e-1, 2e-1     (likewise)
    float16            0             2e-3,  1e-2      1e-2, 5e-2     1e-2, 5e-2
    bfloat16           0             1e-2,  4e-2      3e-2, 1e-1     3e-2, 1e-1
    float8             0             1e-1,  3e-1      1e-1, 3e-1     1e-1, 3e-1
    whole, bool        0             0                0              0

The pairs are far above what another order of summation or another polynomial for ``exp`` does, and far below what a
wrong operation does. Convolutions count as unknown: a Winograd kernel is right and differs by 1e-4. Where they are too
narrow after all, a run in float64 decides (:mod:`djinn_fx.guard.judge`). They were not fitted to measurements;
float32, float16 and bfloat16 of the last column are what the TensorRT engine has used from its beginning. Weights of 8
bits move a product by 1/100 of itself, and a decoder's results, many products later, by 3 to 4 times that.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule

from djinn_fx.engines.rounding import may_round
from djinn_fx.srg.graph import fake_value, tensors_of


class Arithmetic(str, Enum):
    """What a region does to its numbers; the later, the more two right answers differ."""

    MOVES = "moves"
    ELEMENTWISE = "elementwise"
    SUMS = "sums"
    UNKNOWN = "unknown"


class Tolerance(NamedTuple):
    """Relative error of the whole, and of the worst element as a share of the largest."""

    whole: float
    worst: float


_EXACT = Tolerance(0.0, 0.0)
_FLOAT8 = (Tolerance(1e-1, 3e-1), Tolerance(1e-1, 3e-1), Tolerance(1e-1, 3e-1))
_BY_DTYPE: dict[torch.dtype, tuple[Tolerance, Tolerance, Tolerance]] = {
    torch.float64: (Tolerance(1e-11, 1e-10), Tolerance(1e-9, 1e-8), Tolerance(1e-8, 1e-7)),
    torch.float32: (Tolerance(1e-5, 1e-4), Tolerance(2e-4, 2e-3), Tolerance(1e-3, 1e-2)),
    torch.float16: (Tolerance(2e-3, 1e-2), Tolerance(1e-2, 5e-2), Tolerance(1e-2, 5e-2)),
    torch.bfloat16: (Tolerance(1e-2, 4e-2), Tolerance(3e-2, 1e-1), Tolerance(3e-2, 1e-1)),
    torch.float8_e4m3fn: _FLOAT8,
    torch.float8_e5m2: _FLOAT8,
    torch.float8_e4m3fnuz: _FLOAT8,
    torch.float8_e5m2fnuz: _FLOAT8,
}
#: For float32 on a GPU where torch may use TF32, as it does by default for convolutions.
_TF32 = Tolerance(5e-3, 5e-2)
#: For float32 whose products may read weights of 8 bits.
_INT8_WEIGHTS = Tolerance(1e-1, 2e-1)
#: From so many sums on, errors of one feed so many others that the widest bound is used.
_MANY_SUMS = 200

#: Ops that put elements elsewhere, or choose between them, and change none of them.
_MOVES = frozenset(
    """view _unsafe_view reshape expand permute transpose t slice select unsqueeze squeeze as_strided alias clone detach
    split split_with_sizes unbind chunk diagonal unfold cat stack copy copy_ contiguous lift_fresh_copy narrow movedim
    constant_pad_nd index gather index_select embedding where masked_fill flip roll tril triu repeat new_zeros new_ones
    new_full full zeros ones full_like zeros_like ones_like empty new_empty empty_strided arange scalar_tensor eq ne lt
    le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not maximum minimum amax amin
    max min clamp clamp_min clamp_max relu abs neg slice_scatter select_scatter scatter index_put index_copy index_copy
    sort topk isnan isinf any all slice_copy select_copy view_copy expand_copy permute_copy max_pool2d_with_indices
    upsample_nearest1d upsample_nearest2d upsample_nearest3d reflection_pad1d reflection_pad2d replication_pad1d
    replication_pad2d sym_size getitem
    """.split()
)
#: Ops without torch's tag for it that compute each element from one element of each input.
_ELEMENTWISE = frozenset(
    "_to_copy convert_element_type to hardswish hardsigmoid log_sigmoid_forward native_dropout prelu glu".split()
)
#: Ops that add up many numbers, or contain one that does.
_SUMS = frozenset(
    """mm bmm addmm baddbmm addbmm addmv mv dot linear matmul einsum sum mean var std var_mean std_mean prod cumsum
    cumprod logsumexp logcumsumexp norm linalg_vector_norm _softmax _log_softmax softmax log_softmax native_layer_norm
    native_group_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training batch_norm
    _fused_rms_norm rms_norm scaled_dot_product_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
    _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math avg_pool1d avg_pool2d avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d native_layer_norm_backward _softmax_backward_data
    _log_softmax_backward_data embedding_dense_backward index_add index_put scatter_add
    """.split()
)


def work_of(gm: GraphModule) -> Arithmetic:
    """What a region does, by the op of it that makes right answers differ most."""
    sums, elementwise = 0, False
    for node in gm.graph.nodes:
        if node.op != "call_function":
            continue
        name = _name(node.target)
        tensors = tensors_of(fake_value(node))
        if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors) or name in _MOVES:
            continue
        if name in _SUMS:
            sums += 1
        elif name in _ELEMENTWISE or torch.Tag.pointwise in getattr(node.target, "tags", ()):
            elementwise = True
        else:
            return Arithmetic.UNKNOWN
    if sums:
        return Arithmetic.SUMS if sums < _MANY_SUMS else Arithmetic.UNKNOWN
    return Arithmetic.ELEMENTWISE if elementwise else Arithmetic.MOVES


def tolerance(
    tensor: torch.Tensor, work: Arithmetic = Arithmetic.UNKNOWN, precision: str = "exact"
) -> Tolerance | None:
    """The bounds for a tensor; None for element types that must agree exactly.

    Args:
        tensor: eager's.
        work: what the region does that made it.
        precision: what may be rounded of float32, as the setting of that name.
    """
    dtype = _REAL.get(tensor.dtype, tensor.dtype)
    rounds = precision != "exact" and dtype is torch.float32
    if rounds:
        dtype = torch.bfloat16
    known = _BY_DTYPE.get(dtype)
    if known is None:
        return None
    if work is Arithmetic.MOVES:
        return _EXACT
    elementwise, sums, unknown = known
    if work is Arithmetic.ELEMENTWISE:
        return elementwise
    if rounds and precision == "allow-int8-weights":
        return _INT8_WEIGHTS
    if dtype is torch.float32 and tensor.device.type == "cuda" and _may_use_tf32():
        return _TF32
    return sums if work is Arithmetic.SUMS else unknown


def tolerance_in_single(tensor: torch.Tensor) -> Tolerance | None:
    """The bounds of unknown work for an engine that computes double precision in single."""
    if tensor.dtype is torch.float64:
        return tolerance(torch.empty(0, dtype=torch.float32, device=tensor.device))
    return tolerance(tensor)


#: The parts of a complex number.
_REAL = {torch.complex128: torch.float64, torch.complex64: torch.float32, torch.complex32: torch.float16}


def _may_use_tf32() -> bool:
    return may_round(torch.backends.cudnn) or may_round(torch.backends.cuda.matmul)


def only_moves(target: Any) -> bool:
    """Whether an op puts elements elsewhere, or chooses between them, and computes none."""
    return _name(target) in _MOVES


def _name(target: Any) -> str:
    """``add`` of ``aten.add.Tensor``, ``getitem`` of ``operator.getitem``."""
    if isinstance(target, OpOverload):
        return target._schema.name.split("::")[-1]
    return str(getattr(target, "__name__", target))
