"""Which sort of work an op is, by name and by torch's tags: the sorts of :data:`djinn_fx.costmodels.work.KINDS`."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._ops import OpOverload

from djinn_fx.costmodels.attention import ATTENTION
from djinn_fx.costmodels.tables import MOVES, REDUCTIONS, names

_BY_NAME: dict[str, str] = {
    **dict.fromkeys(ATTENTION, "attention"),
    **dict.fromkeys(
        names(
            """mm addmm bmm baddbmm addbmm addmv mv dot vdot linear matmul outer addr _scaled_mm _int_mm _grouped_mm
_weight_int8pack_mm _weight_int4pack_mm einsum bilinear _trilinear linear_backward matmul_backward _cdist_forward
_addmm_activation"""
        ),
        "matmul",
    ),
    **dict.fromkeys(
        names(
            """convolution _convolution convolution_backward cudnn_convolution convolution_overrideable
_slow_conv2d_forward mkldnn_convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
conv_depthwise3d _conv_depthwise2d miopen_convolution convolution_backward_overrideable"""
        ),
        "conv",
    ),
    **dict.fromkeys(
        names(
            """native_layer_norm layer_norm native_layer_norm_backward native_group_norm group_norm
native_group_norm_backward native_batch_norm batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional
_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_with_update_functional _batch_norm_no_update
native_batch_norm_backward batch_norm_backward _fused_rms_norm _fused_rms_norm_backward rms_norm instance_norm
cudnn_batch_norm cudnn_batch_norm_backward local_response_norm"""
        ),
        "norm",
    ),
    **dict.fromkeys(
        names(
            """_softmax _log_softmax _safe_softmax softmax log_softmax _softmax_backward_data
_log_softmax_backward_data _masked_softmax"""
        ),
        "softmax",
    ),
    **dict.fromkeys(REDUCTIONS, "reduction"),
    **dict.fromkeys(
        names(
            """max min norm linalg_vector_norm logsumexp nll_loss_forward nll_loss_backward nll_loss2d_forward mse_loss
trace _foreach_norm aminmax count_nonzero nansum nanmean histc bincount dist linalg_matrix_norm all any"""
        ),
        "reduction",
    ),
    **dict.fromkeys(names("cumsum cumprod cummax cummin logcumsumexp _cummax_helper _cummin_helper"), "scan"),
    **dict.fromkeys(
        names("topk sort argsort kthvalue mode median nanmedian msort _unique2 unique_consecutive unique_dim randperm"),
        "sort",
    ),
    **dict.fromkeys(
        names(
            """embedding index _unsafe_index index_select gather take take_along_dim masked_select nonzero
nonzero_static _embedding_bag searchsorted bucketize isin repeat_interleave grid_sampler_2d grid_sampler_3d"""
        ),
        "gather",
    ),
    **dict.fromkeys(
        names(
            """index_put _unsafe_index_put _index_put_impl index_copy scatter scatter_add scatter_reduce index_add
embedding_dense_backward masked_scatter index_fill put index_reduce"""
        ),
        "scatter",
    ),
    **dict.fromkeys(
        names(
            """full full_like zeros zeros_like ones ones_like scalar_tensor arange linspace logspace eye new_zeros
new_ones new_full fill zero tril_indices triu_indices iota"""
        ),
        "fill",
    ),
    **dict.fromkeys(
        names(
            """rand randn rand_like randn_like randint randint_like uniform normal normal_functional bernoulli
multinomial exponential cauchy geometric log_normal random native_dropout dropout rrelu_with_noise"""
        ),
        "random",
    ),
    **dict.fromkeys(
        names(
            """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d
avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
_adaptive_avg_pool2d_backward max_pool2d_with_indices_backward avg_pool2d_backward"""
        ),
        "pool",
    ),
    **dict.fromkeys(names("_fft_r2c _fft_c2r _fft_c2c"), "fft"),
    **dict.fromkeys(names("where masked_fill tril triu"), "elementwise"),
}


@functools.lru_cache(maxsize=4096)
def kind_of(target: Any) -> str:
    """The kind of a call that moves or computes something."""
    name = str(target.overloadpacket) if isinstance(target, OpOverload) else str(getattr(target, "__name__", ""))
    space, _, bare = name.rpartition(".")
    found = _BY_NAME.get(bare) or _BY_NAME.get(bare.rstrip("_"))
    if found is not None:
        return found
    if space in ("_c10d_functional", "c10d", "_dtensor"):
        return "collective"
    if bare.startswith(("upsample_", "_upsample_")):
        return "resample"
    if name in MOVES or name.rstrip("_") in MOVES:
        return "copy"
    if isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags:
        return "elementwise"
    return "other"
