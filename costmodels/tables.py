"""Which op does how much, by name: the tables behind :mod:`djinn_fx.costmodels.rules`."""

from __future__ import annotations


def names(text: str, prefix: str = "") -> frozenset[str]:
    """Names written with spaces between them, each with a prefix."""
    return frozenset(prefix + name for name in text.split())


NO_WORK = names(
    """empty empty_strided empty_like new_empty new_empty_strided empty_permuted _unsafe_view sym_size
    sym_stride sym_numel sym_storage_offset sym_is_contiguous _assert_async _assert_scalar _local_scalar_dense item
    resize_ set_ lift alias _functional_assert_async sym_constrain_range sym_constrain_range_for_size""",
    "aten.",
)
#: Ops that move elements without computing on them.
MOVES = names(
    """cat stack clone copy copy_ _to_copy contiguous lift_fresh lift_fresh_copy embedding index _unsafe_index
    index_select gather take take_along_dim index_put index_put_ _unsafe_index_put index_copy index_copy_
    scatter scatter_ slice_scatter select_scatter diagonal_scatter as_strided_scatter masked_scatter
    masked_select nonzero constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d repeat repeat_interleave roll flip tril triu tril_ triu_ tril_indices
    triu_indices full full_like zeros zeros_like ones ones_like scalar_tensor arange linspace eye new_zeros
    new_ones new_full fill fill_ zero zero_ permute_copy view_copy expand_copy transpose_copy slice_copy
    split_copy split_with_sizes_copy unfold_copy pixel_shuffle pixel_unshuffle channel_shuffle
    upsample_nearest1d upsample_nearest2d upsample_nearest3d im2col one_hot randperm _pin_memory
    bitwise_left_shift expand_as meshgrid tile narrow_copy select_copy detach_copy squeeze_copy unsqueeze_copy
    t_copy alias_copy _reshape_copy _reshape_alias_copy slice_backward select_backward diagonal_backward
    unfold_backward value_selecting_reduction_backward diag_embed diagonal_copy as_strided_copy unbind_copy
    rot90 _chunk_cat _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    nonzero_static logspace masked_fill""",
    "aten.",
) | {"prims.convert_element_type", "prims.device_put", "prims.iota"}

#: Operations per element of the largest input, counted by writing the kernel out; e.g. softmax is maximum,
#: subtract, exp, sum and divide.
PER_INPUT = {
    "_softmax": 5,
    "_log_softmax": 5,
    "_safe_softmax": 5,
    "softmax": 5,
    "log_softmax": 5,
    "_softmax_backward_data": 4,
    "_log_softmax_backward_data": 4,
    "native_layer_norm": 8,
    "layer_norm": 8,
    "native_layer_norm_backward": 14,
    "native_group_norm": 8,
    "native_group_norm_backward": 14,
    "native_batch_norm": 8,
    "_native_batch_norm_legit": 8,
    "_native_batch_norm_legit_functional": 8,
    "_native_batch_norm_legit_no_training": 4,
    "_batch_norm_with_update": 8,
    "_batch_norm_with_update_functional": 8,
    "_batch_norm_no_update": 4,
    "native_batch_norm_backward": 14,
    "batch_norm_backward": 14,
    "_fused_rms_norm": 5,
    "_fused_rms_norm_backward": 9,
    "rms_norm": 5,
    "cumsum": 1,
    "cumprod": 1,
    "cummax": 1,
    "cummin": 1,
    "logcumsumexp": 3,
    "topk": 1,
    "sort": 1,
    "argsort": 1,
    "max": 1,
    "min": 1,
    "norm": 2,
    "linalg_vector_norm": 2,
    "nll_loss_forward": 1,
    "nll_loss_backward": 1,
    "mse_loss": 3,
    "mse_loss_backward": 3,
    "adaptive_avg_pool1d": 1,
    "_adaptive_avg_pool2d": 1,
    "_adaptive_avg_pool2d_backward": 1,
    "_adaptive_avg_pool3d": 1,
    "adaptive_max_pool2d": 1,
    "embedding_dense_backward": 1,
    "index_add": 1,
    "index_add_": 1,
    "scatter_add": 1,
    "scatter_add_": 1,
    "scatter_reduce": 1,
    "_embedding_bag": 1,
    "histc": 1,
    "bincount": 1,
    "logsumexp": 4,
    "_foreach_norm": 2,
    "max_pool2d_with_indices_backward": 1,
    "avg_pool2d_backward": 1,
    "trace": 1,
    "kthvalue": 1,
    "mode": 1,
    "nanmedian": 1,
    "_unique2": 1,
    "unique_consecutive": 1,
    "unique_dim": 1,
    "adaptive_max_pool3d": 1,
}
#: Operations per element of the largest output.
PER_OUTPUT = {
    "native_dropout": 2,
    "native_dropout_backward": 2,
    "upsample_bilinear2d": 8,
    "upsample_linear1d": 4,
    "upsample_trilinear3d": 16,
    "upsample_bicubic2d": 40,
    "_upsample_bilinear2d_aa": 8,
    "_upsample_bicubic2d_aa": 40,
    "grid_sampler_2d": 16,
    "rand": 1,
    "randn": 1,
    "rand_like": 1,
    "randn_like": 1,
    "randint": 1,
    "randint_like": 1,
    "uniform": 1,
    "normal_functional": 1,
    "bernoulli": 1,
    "multinomial": 1,
    "searchsorted": 1,
    "bucketize": 1,
    "isin": 1,
    "_cdist_forward": 1,
    "complex": 0,
    "glu": 5,
    "hardswish": 4,
    "log_sigmoid_forward": 4,
    "rrelu_with_noise": 2,
    "normal": 1,
    "exponential": 1,
    "cauchy": 1,
    "geometric": 1,
    "log_normal": 1,
    "random": 1,
    "polar": 2,
}
#: Reductions, for the torch versions that do not tag them: one operation per element read.
REDUCTIONS = names("sum mean prod amax amin argmax argmin any all var std var_mean std_mean median")
