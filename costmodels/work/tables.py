"""Which op does how much, by name: the tables behind :mod:`djinn_fx.costmodels.work.rules`.

Counts are by writing the kernel out: softmax is maximum, subtract, exp, sum and divide for each element: four vector
operations and one special function. A multiply and an add are two operations. Names are without ``aten.``; an op in
place goes by its twin.
"""

from __future__ import annotations

from dataclasses import dataclass


def names(text: str, prefix: str = "") -> frozenset[str]:
    """Names written with spaces between them, each with a prefix."""
    return frozenset(prefix + name for name in text.split())


@dataclass(frozen=True, slots=True)
class PerElement:
    """So much for each element.

    Attributes:
        kind: of the work.
        of: ``"in"`` elements of the first tensor argument, ``"out"`` of the first output, ``"outs"`` of all outputs,
            or the position of the argument that counts.
        vector: operations.
        special: calls of exp, sqrt and the like.
    """

    kind: str
    of: str | int
    vector: int = 0
    special: int = 0


#: Ops that are not even called at run time, or end before anything is dispatched.
NO_WORK = names(
    """sym_size sym_stride sym_numel sym_storage_offset sym_is_contiguous sym_constrain_range
    sym_constrain_range_for_size _assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async
    _functional_assert_scalar _functional_sym_constrain_range _functional_sym_constrain_range_for_size
    _local_scalar_dense item is_same_size size stride numel dim""",
    "aten.",
)
#: Ops that are called but touch no element: they allocate, or change what a tensor says of itself.
NO_TRAFFIC = names(
    """empty empty_strided empty_like new_empty new_empty_strided empty_permuted _unsafe_view resize_ resize set_
    lift alias view_as_real view_as_complex _conj _neg_view wait_tensor""",
    "aten.",
) | names("_c10d_functional.wait_tensor _c10d_functional_autograd.wait_tensor c10d_functional.wait_tensor")

_MATRIX_VIEW_COPIES = """permute_copy view_copy expand_copy transpose_copy slice_copy split_copy split_with_sizes_copy
unfold_copy select_copy detach_copy squeeze_copy unsqueeze_copy t_copy alias_copy _reshape_copy _reshape_alias_copy
narrow_copy diagonal_copy as_strided_copy unbind_copy view_as_real_copy view_as_complex_copy _fw_primal_copy
_conj_copy"""

_TABLE: tuple[tuple[str, str | int, int, int, str], ...] = (
    # kind, elements of, vector, special, names
    ("copy", "out", 0, 0, _MATRIX_VIEW_COPIES),
    (
        "copy",
        "out",
        0,
        0,
        """cat stack clone copy _to_copy contiguous to lift_fresh lift_fresh_copy slice_scatter select_scatter reshape
    diagonal_scatter as_strided_scatter constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d pad
    replication_pad1d replication_pad2d replication_pad3d repeat roll flip pixel_shuffle pixel_unshuffle
    channel_shuffle im2col meshgrid tile slice_backward select_backward diagonal_backward unfold_backward
    diag_embed rot90 _chunk_cat _pin_memory convert_element_type device_put expand_as slice_inverse type_as flatten
    concatenate hstack vstack dstack concat slice_scatter_ tensor_split block_diag _foreach_copy complex
    value_selecting_reduction_backward _to_dense to_mkldnn mkldnn_reorder_conv2d_weight _nested_tensor_from_mask
    col2im_backward split_with_sizes_copy _pad_circular circular_pad combinations cartesian_prod column_stack""",
    ),
    (
        "copy",
        "in",
        1,
        0,
        """col2im reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward
    replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward im2col_backward
    as_strided_backward""",
    ),
    (
        "fill",
        "out",
        0,
        0,
        """full full_like zeros zeros_like ones ones_like scalar_tensor arange linspace logspace eye new_zeros
    new_ones new_full fill zero tril_indices triu_indices iota _foreach_zero _efficientzerotensor one_hot""",
    ),
    (
        "gather",
        "out",
        0,
        0,
        """embedding index _unsafe_index _unsafe_masked_index index_select gather take take_along_dim masked_select
    nonzero nonzero_static repeat_interleave nonzero_numpy argwhere""",
    ),
    ("gather", "out", 8, 0, "searchsorted bucketize isin"),
    ("gather", "out", 1, 0, "_embedding_bag _embedding_bag_forward_only"),
    (
        "gather",
        "out",
        16,
        0,
        "grid_sampler_2d grid_sampler_3d grid_sampler _grid_sampler_2d_cpu_fallback cudnn_grid_sampler",
    ),
    ("gather", "in", 24, 0, "grid_sampler_2d_backward grid_sampler_3d_backward"),
    ("scatter", "out", 0, 0, "index_copy scatter masked_scatter index_fill"),
    ("scatter", 2, 0, 0, "index_put _unsafe_index_put _index_put_impl put"),
    ("scatter", 3, 1, 0, "index_add scatter_add scatter_reduce index_reduce"),
    ("scatter", "in", 1, 0, "embedding_dense_backward _embedding_bag_dense_backward embedding_backward"),
    ("scatter", 2, 1, 0, "_unsafe_masked_index_put_accumulate"),
    ("scatter", "in", 1, 0, "histc bincount histogram masked_scatter_backward"),
    ("softmax", "in", 4, 1, "_softmax _safe_softmax softmax _log_softmax log_softmax _masked_softmax"),
    ("softmax", "in", 4, 0, "_softmax_backward_data _masked_softmax_backward"),
    ("softmax", "in", 3, 1, "_log_softmax_backward_data"),
    (
        "norm",
        "in",
        8,
        0,
        """native_layer_norm layer_norm native_group_norm group_norm native_batch_norm batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_functional _batch_norm_with_update instance_norm
    _batch_norm_with_update_functional cudnn_batch_norm miopen_batch_norm""",
    ),
    ("norm", "in", 4, 0, "_native_batch_norm_legit_no_training _batch_norm_no_update batch_norm_elemt"),
    ("norm", "in", 5, 0, "_fused_rms_norm rms_norm batch_norm_stats"),
    ("norm", "in", 9, 0, "_fused_rms_norm_backward"),
    (
        "norm",
        "in",
        14,
        0,
        """native_layer_norm_backward native_group_norm_backward native_batch_norm_backward batch_norm_backward
    cudnn_batch_norm_backward""",
    ),
    (
        "reduction",
        "in",
        1,
        0,
        """sum mean prod amax amin argmax argmin any all max min nansum nanmean count_nonzero trace nll_loss_forward
    nll_loss2d_forward is_nonzero equal allclose _is_all_true _is_any_true xor_sum""",
    ),
    ("reduction", "out", 1, 0, "nll_loss_backward nll_loss2d_backward"),
    ("reduction", "in", 2, 0, "norm linalg_vector_norm aminmax _foreach_norm dist logical_all _foreach_max"),
    ("reduction", "in", 3, 0, "var std var_mean std_mean mse_loss l1_loss _amp_foreach_non_finite_check_and_unscale"),
    ("reduction", "in", 3, 1, "logsumexp"),
    ("reduction", "in", 4, 2, "binary_cross_entropy binary_cross_entropy_with_logits kl_div soft_margin_loss"),
    ("reduction", "in", 4, 0, "smooth_l1_loss huber_loss multi_margin_loss multilabel_margin_loss_forward"),
    ("reduction", "in", 4, 2, "_ctc_loss _cudnn_ctc_loss"),
    ("reduction", "in", 4, 0, "multi_margin_loss_backward multilabel_margin_loss_backward _ctc_loss_backward"),
    ("elementwise", "out", 3, 0, "mse_loss_backward smooth_l1_loss_backward huber_loss_backward l1_loss_backward"),
    ("elementwise", "out", 4, 1, "binary_cross_entropy_backward soft_margin_loss_backward"),
    ("scan", "in", 1, 0, "cumsum cumprod cummax cummin _cummax_helper _cummin_helper"),
    ("scan", "in", 3, 1, "logcumsumexp _logcumsumexp"),
    ("scan", "in", 4, 0, "cummaxmin_backward cumprod_backward"),
    ("random", "out", 8, 0, "rand rand_like uniform bernoulli random randint randint_like randint_low inductor_random"),
    ("random", "out", 8, 2, "randn randn_like normal normal_functional"),
    (
        "random",
        "out",
        8,
        1,
        "exponential cauchy geometric log_normal rrelu_with_noise rrelu_with_noise_functional poisson binomial",
    ),
    ("random", "out", 9, 4, "_standard_gamma _sample_dirichlet _dirichlet_grad _standard_gamma_grad"),
    ("random", "in", 9, 0, "native_dropout dropout alpha_dropout feature_dropout feature_alpha_dropout _fused_dropout"),
    ("random", "in", 2, 0, "multinomial randperm"),
    ("elementwise", "out", 2, 0, "native_dropout_backward"),
    (
        "pool",
        "in",
        1,
        0,
        "adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d",
    ),
    (
        "pool",
        "in",
        1,
        0,
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d",
    ),
    (
        "pool",
        "out",
        1,
        0,
        """_adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward adaptive_max_pool2d_backward
    adaptive_max_pool3d_backward max_pool2d_with_indices_backward max_pool3d_with_indices_backward
    avg_pool2d_backward avg_pool3d_backward fractional_max_pool2d_backward fractional_max_pool3d_backward
    max_unpool2d max_unpool3d""",
    ),
    ("resample", "out", 0, 0, "upsample_nearest1d upsample_nearest2d upsample_nearest3d"),
    ("resample", "out", 0, 0, "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d"),
    ("resample", "out", 4, 0, "upsample_linear1d"),
    ("resample", "out", 8, 0, "upsample_bilinear2d _upsample_bilinear2d_aa _upsample_lanczos2d_aa"),
    ("resample", "out", 16, 0, "upsample_trilinear3d"),
    ("resample", "out", 40, 0, "upsample_bicubic2d _upsample_bicubic2d_aa"),
    (
        "resample",
        "in",
        1,
        0,
        """upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
    _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward _upsample_nearest_exact3d_backward""",
    ),
    (
        "resample",
        "in",
        8,
        0,
        "upsample_linear1d_backward upsample_bilinear2d_backward _upsample_bilinear2d_aa_backward",
    ),
    ("resample", "in", 16, 0, "upsample_trilinear3d_backward"),
    ("resample", "in", 40, 0, "upsample_bicubic2d_backward _upsample_bicubic2d_aa_backward"),
    ("collective", "in", 1, 0, "all_reduce all_reduce_coalesced reduce_scatter_tensor reduce_scatter_tensor_coalesced"),
    ("collective", "in", 1, 0, "allreduce reduce reduce_scatter _reduce_scatter_base allreduce_coalesced"),
    (
        "collective",
        "out",
        0,
        0,
        """all_gather_into_tensor all_gather_into_tensor_coalesced all_gather_into_tensor_out all_to_all_single
    broadcast shard_dim_alltoall allgather _allgather_base alltoall alltoall_base send recv_ barrier""",
    ),
    # -- elementwise: what torch tags as pointwise counts one vector operation unless it stands here
    ("elementwise", "out", 0, 0, "view_of conj_physical _conj_physical real imag"),
    ("elementwise", "out", 0, 1, "exp exp2 log log2 log10 sin cos tan tanh erf sqrt rsqrt pow float_power atan2"),
    ("elementwise", "out", 1, 1, "expm1 log1p sinh cosh asin acos atan erfc sinc xlogy special_xlog1py polar"),
    (
        "elementwise",
        "out",
        2,
        1,
        "sigmoid asinh acosh atanh logit hypot elu celu selu erfinv special_ndtr special_entr",
    ),
    ("elementwise", "out", 3, 1, "silu swiglu fmod remainder"),
    ("elementwise", "out", 4, 1, "gelu glu special_ndtri lgamma digamma polygamma mvlgamma i0 special_i0e special_i1"),
    ("elementwise", "out", 3, 2, "logaddexp logaddexp2 softplus log_sigmoid_forward log_sigmoid"),
    ("elementwise", "out", 3, 3, "mish"),
    ("elementwise", "out", 10, 2, "gelu_backward mish_backward"),
    ("elementwise", "out", 6, 1, "silu_backward"),
    ("elementwise", "out", 4, 1, "softplus_backward log_sigmoid_backward elu_backward glu_backward"),
    ("elementwise", "out", 3, 0, "tanh_backward sigmoid_backward logit_backward addcmul addcdiv lerp hardsigmoid"),
    (
        "elementwise",
        "out",
        2,
        0,
        "clamp hardtanh leaky_relu prelu threshold clip nan_to_num rsub softshrink hardshrink",
    ),
    ("elementwise", "out", 2, 0, "hardtanh_backward leaky_relu_backward hardsigmoid_backward _prelu_kernel_backward"),
    ("elementwise", "out", 4, 0, "hardswish hardswish_backward"),
    (
        "elementwise",
        "out",
        1,
        0,
        "masked_fill tril triu heaviside renorm where fma abs sgn _prelu_kernel addr outer ger",
    ),
    (
        "elementwise",
        "out",
        1,
        0,
        "bitwise_left_shift bitwise_right_shift threshold_backward isclose linalg_cross gcd lcm floor_divide copysign",
    ),
    ("elementwise", "out", 30, 0, "_fused_adam _fused_adamw"),
    ("elementwise", "outs", 6, 0, "_fused_sgd _fused_adagrad"),
    ("elementwise", "out", 9, 0, "_fused_moving_avg_obs_fq_helper fake_quantize_per_tensor_affine_cachemask"),
    (
        "elementwise",
        "out",
        9,
        0,
        "fake_quantize_per_channel_affine_cachemask _thnn_fused_lstm_cell _thnn_fused_gru_cell",
    ),
)

#: By name without the namespace.
PER_ELEMENT: dict[str, PerElement] = {
    name: PerElement(kind, of, vector, special) for kind, of, vector, special, text in _TABLE for name in text.split()
}

#: Sorting n elements: about n log2(n) comparisons; choosing the k largest: about n log2(k).
SORTS = names(
    """sort argsort msort _unique2 unique_consecutive unique_dim unique kthvalue mode median nanmedian topk quantile
    nanquantile randperm"""
)

#: Factorisations and solutions of a matrix [..., m, n]: so many times m n min(m, n) operations (the leading terms in
#: Golub and Van Loan, Matrix Computations, for square matrices with all vectors, rounded up to whole numbers).
FACTORISATIONS: dict[str, int] = {
    name: times
    for times, text in (
        (
            1,
            "linalg_lu_factor_ex linalg_lu linalg_cholesky_ex cholesky linalg_ldl_factor_ex",
        ),
        (1, "linalg_lu_solve _linalg_solve_ex cholesky_inverse linalg_ldl_solve lu_unpack cholesky_solve"),
        (1, "linalg_solve_triangular triangular_solve _linalg_check_errors _linalg_det _linalg_slogdet"),
        (2, "linalg_inv_ex geqrf ormqr linalg_householder_product"),
        (4, "linalg_qr"),
        (22, "_linalg_svd linalg_pinv linalg_lstsq"),
        (9, "_linalg_eigh"),
        (25, "linalg_eig _linalg_eigvals linalg_matrix_exp"),
    )
    for name in text.split()
}

#: Reductions, for the torch versions that do not tag them.
REDUCTIONS = names("sum mean prod amax amin argmax argmin any all var std var_mean std_mean median")
