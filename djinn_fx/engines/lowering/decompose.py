"""An op without a converter as the ops torch itself makes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.engines.onnx import registry
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.srg.lower import target_name

#: Not in torch's core table of decompositions, but in its wider one, and made of ops that have converters.
_MORE = tuple(
    f"aten.{name}"
    for name in """
    nll_loss_forward nll_loss2d_forward native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _batch_norm_with_update_functional native_group_norm native_layer_norm
    dist renorm trace addr index_add take hypot multi_margin_loss multilabel_margin_loss_forward _trilinear
    channel_shuffle logaddexp logaddexp2 linalg_cross mv vdot dot baddbmm addmv addbmm im2col col2im grid_sampler_3d
    _unsafe_masked_index _unsafe_masked_index_put_accumulate block_diag narrow_copy diagonal_scatter unfold_copy
    split_with_sizes_copy as_strided_copy embedding_dense_backward roll rot90 _euclidean_dist _cdist_forward
    _pdist_forward cumprod nansum nan_to_num aminmax count_nonzero floor_divide heaviside xlogy special_xlog1py
    special_entr special_log_ndtr binary_cross_entropy binary_cross_entropy_with_logits huber_loss mse_loss
    smooth_l1_loss soft_margin_loss logit log_sigmoid_forward softshrink hardshrink threshold rrelu_with_noise celu
    glu _prelu_kernel pixel_shuffle pixel_unshuffle upsample_linear1d upsample_bilinear2d upsample_trilinear3d
    upsample_bicubic2d _upsample_bilinear2d_aa index_fill index_copy _softmax_backward_data
    _log_softmax_backward_data native_dropout_backward threshold_backward gelu_backward silu_backward tanh_backward
    sigmoid_backward native_layer_norm_backward native_group_norm_backward nll_loss_backward mse_loss_backward
    slice_backward select_backward _adaptive_avg_pool3d norm ldexp signbit isneginf isposinf polar round
    """.split()
)


@functools.cache
def _table() -> Mapping[Any, Callable[..., Any]]:
    """torch's decompositions by overload."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    table = dict(core_aten_decompositions())
    for op, parts in decomposition_table.items():
        if str(op).rpartition(".")[0] in _MORE:
            table.setdefault(op, parts)
    return table


@functools.cache
def _strange() -> Mapping[Any, Callable[..., Any]]:
    """Of these the ones for ops without a converter: an op we have stays whole among another's parts."""
    known = registry.load()
    return {op: parts for op, parts in _table().items() if target_name(op) not in known}


def parts_of(node: Node) -> Graph | None:
    """A call traced through torch's decompositions, its placeholders in the order of ``node.all_input_nodes``.

    None if torch has no decomposition for it, if it would need a constant tensor, or if tracing fails: then the
    refusal names the op itself.
    """
    target: Any = node.target
    if target not in _table() or target._schema.is_mutable:
        return None
    sources = node.all_input_nodes
    fakes = [tensor for source in (*sources, node) for tensor in tensors_of(fake_value(source))]
    if not fakes or not all(isinstance(one, FakeTensor) for one in fakes):
        return None
    if any(isinstance(size, int) and size == 0 for one in fakes for size in one.shape):
        return None  # a converter refused it for its having no elements, which some runtime does not survive

    def call(*given: Any) -> Any:
        known = dict(zip(sources, given, strict=True))
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda one: known[one])
        return target(*args, **kwargs)

    table = {**_strange(), target: _table()[target]}
    try:
        with fakes[0].fake_mode, torch.no_grad():  # type: ignore[attr-defined]
            functional = torch.func.functionalize(call, remove="mutations")
            traced = make_fx(functional, decomposition_table=table)(*(fake_value(source) for source in sources))
    except Exception:  # noqa: BLE001 (the op stays as it is, and the Reason that refuses it names it)
        return None
    if any(one.op == "get_attr" or one.target is target for one in traced.graph.nodes):
        return None
    traced.graph.eliminate_dead_code()
    for one in traced.graph.nodes:
        one.meta = {**node.meta, "val": fake_value(one)}  # messages are about the op that the user wrote
    return traced.graph
