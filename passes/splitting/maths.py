"""Rules of ops that compute: number by number, along dimensions, products, attention, norms, pooling."""

from __future__ import annotations

from torch.fx import Node

from djinn_fx.passes.splitting.call import Fact, OpCall, Same, Samples, rank_of, shape_of
from djinn_fx.passes.splitting.table import Found, Rules, into

RULES: Rules = {}
rule = into(RULES)

_REDUCES = (
    "sum.dim_IntList", "mean.dim", "amax.default", "amin.default", "any.dim", "any.dims", "all.dim", "prod.dim_int",
    "var.correction", "std.correction", "var_mean.correction", "argmax.default", "argmin.default", "max.dim", "min.dim",
    "logsumexp.default", "linalg_vector_norm.default", "norm.ScalarOpt_dim",
)  # fmt: skip
_ALONG = (
    "_softmax.default", "_log_softmax.default", "_safe_softmax.default", "cumsum.default", "cumprod.default",
    "logcumsumexp.default", "sort.default", "sort.stable", "topk.default",
)  # fmt: skip
#: How many of the last dimensions an op works on; those before are all alike to it.
_TRAILING = {
    "tril.default": 2, "triu.default": 2, "max_pool2d_with_indices.default": 2, "avg_pool2d.default": 2,
    "avg_pool1d.default": 1, "_adaptive_avg_pool2d.default": 2, "_adaptive_avg_pool3d.default": 3,
    "adaptive_max_pool2d.default": 2, "max_pool3d_with_indices.default": 3, "avg_pool3d.default": 3,
    "upsample_nearest1d.vec": 1, "upsample_nearest2d.vec": 2, "upsample_bilinear2d.vec": 2, "upsample_bicubic2d.vec": 2,
    "upsample_nearest1d.default": 1, "upsample_nearest2d.default": 2, "upsample_bilinear2d.default": 2,
    "upsample_bicubic2d.default": 2, "pixel_shuffle.default": 3, "pixel_unshuffle.default": 3, "im2col.default": 3,
    "col2im.default": 2,
}  # fmt: skip


@rule("aten.hardswish.default", "aten._prelu_kernel.default")
def pointwise(call: OpCall) -> Found:
    """Number by number, broadcast: of any op that torch tags so."""
    at = call.joined(call.sources, len(call.shape))
    if call.shape[at.dim] != call.count * at.each:
        call.refuse("it repeats samples")
    return at


@rule(*(f"aten.{name}" for name in _REDUCES))
def reduced(call: OpCall) -> Found:
    """Along named dimensions, which are then of size 1 or gone."""
    source, at = call.only("self")
    dims = call.dims("dim", rank_of(source))
    if not dims or at.dim in dims:
        call.refuse("it reduces over samples")
    kept = len(call.shape) == rank_of(source)
    return at if kept else Samples(at.dim - sum(one < at.dim for one in dims), at.each)


@rule(*(f"aten.{name}" for name in _ALONG))
def along(call: OpCall) -> Found:
    """Along one dimension, of which every place stays or the best do."""
    source, at = call.only("self")
    dim = -1 if call["dim"] is None else call["dim"]
    if at.dim == dim % rank_of(source):
        call.refuse("it works across samples")
    return at


@rule(*(f"aten.{name}" for name in _TRAILING))
def trailing(call: OpCall) -> Found:
    """On each plane by itself."""
    source, at = call.only("self" if call["self"] is not None else "input")
    if at.dim >= rank_of(source) - _TRAILING[str(call.node.target).removeprefix("aten.")]:
        call.refuse("it works across samples")
    return at


@rule("aten.grid_sampler_2d.default")
def grid(call: OpCall) -> Found:
    """Each picture by its own grid."""
    for name in ("input", "grid"):
        call.meets(call[name], Samples(0))
    return Samples(0)


# -- products ------------------------------------------------------------------------------------------------------


@rule("aten.mm.default", "aten._int_mm.default")
def mm(call: OpCall) -> Found:
    """Rows or columns."""
    return _product(call, call["self"], call["mat2"])


@rule("aten.addmm.default")
def addmm(call: OpCall) -> Found:
    """Rows or columns, and something added to each."""
    return _added(call, _product(call, call["mat1"], call["mat2"]))


@rule("aten.bmm.default")
def bmm(call: OpCall) -> Found:
    """Products one by one, or rows or columns of each."""
    return _products(call, call["self"], call["mat2"])


@rule("aten.baddbmm.default")
def baddbmm(call: OpCall) -> Found:
    """As ``bmm``, and something added."""
    return _added(call, _products(call, call["batch1"], call["batch2"]))


@rule("aten.linear.default")
def linear(call: OpCall) -> Found:
    """By weights that have no samples."""
    source, at = call.only("input")
    if at.dim == rank_of(source) - 1:
        call.refuse("it sums over samples")
    return at


def _added(call: OpCall, at: Samples) -> Samples:
    call.meets(call["self"], Samples(at.dim - len(call.shape) + rank_of(call["self"]), at.each))
    return at


def _product(call: OpCall, left: Node, right: Node) -> Samples:
    """Of two matrices, the last two dimensions."""
    one, other = call.at(left), call.at(right)
    if one is not None and other is not None:
        call.refuse("it sums over samples, or pairs each with each")
    at, dim = (one, 0) if one is not None else (other, 1)
    if at is None or at.dim != dim:
        call.refuse("it sums over samples")
    return at


def _products(call: OpCall, left: Node, right: Node) -> Samples:
    one, other = call.at(left), call.at(right)
    at = one if one is not None else other
    if at is not None and at.dim == 0:
        call.meets(left, at)
        call.meets(right, at)
        return at
    if one is not None and other is not None:
        call.refuse("it sums over samples, or pairs each with each")
    if at is None or at.dim != (1 if one is not None else 2):
        call.refuse("it sums over samples")
    return at


_ATTENTION = "aten._scaled_dot_product_"


@rule(
    f"{_ATTENTION}flash_attention_for_cpu.default",
    f"{_ATTENTION}efficient_attention.default",
    "aten.scaled_dot_product_attention.default",
)
def attention(call: OpCall) -> Found:
    """Each sample reads its own keys and values."""
    at = next((at for name in ("query", "key", "value") if (at := call.at(call[name])) is not None), None)
    if at is None or at.dim != 0:
        call.refuse("samples do not lie along the first dimension")
    for name in ("query", "key", "value"):
        call.meets(call[name], at)
    for name in ("attn_mask", "attn_bias"):
        if call[name] is not None:
            call.meets(call[name], Samples(at.dim - rank_of(call["query"]) + rank_of(call[name]), at.each))
    found: list[Fact] = [at, at, Same(), Same()]
    return found[: len(call.outputs)]


# -- with weights --------------------------------------------------------------------------------------------------


@rule("aten.convolution.default")
def convolution(call: OpCall) -> Found:
    """By weights that have no samples; the first dimension is the batch."""
    _, at = call.only("input")
    if at.dim != 0 or rank_of(call["input"]) != rank_of(call["weight"]):
        call.refuse("samples do not lie along the first dimension")
    return at


@rule("aten.native_layer_norm.default", "aten._fused_rms_norm.default")
def layer_norm(call: OpCall) -> Found:
    """Over the last dimensions."""
    source, at = call.only("input")
    if at.dim >= rank_of(source) - len(call["normalized_shape"]):
        call.refuse("it works across samples")
    return at


@rule("aten.native_group_norm.default")
def group_norm(call: OpCall) -> Found:
    """Over groups of channels; it is told how many samples there are."""
    _, at = call.only("input")
    if at.dim != 0:
        call.refuse("samples do not lie along the first dimension")
    call.edits.sizes.append(("N", None, at.each))
    return at


@rule("aten._native_batch_norm_legit_no_training.default", "aten.native_batch_norm.default")
def batch_norm(call: OpCall) -> Found:
    """By figures that are known; in training these are of all samples."""
    source, at = call.only("input")
    if call["training"]:
        call.refuse("in training it takes mean and variance over samples")
    if at.dim != 0 or rank_of(source) < 2 or shape_of(source)[1] < 1:
        call.refuse("samples do not lie along the first dimension")
    return [at, Same(), Same()]
