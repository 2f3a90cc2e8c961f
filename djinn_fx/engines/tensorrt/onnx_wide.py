"""Half precision as torch computes it: in float32, rounded once at the end of each op.

ONNX says nothing of how a float16 op computes, the exporter writes many ops as several that would each round, and
TensorRT takes types as they are written. So each op that rounds is written as float32 between casts, which TensorRT
fuses away; a matrix product between such casts runs as one that accumulates in float32. Ops that only move or choose
numbers, convolutions and attention keep their types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.srg.graph import tensors_of

aten = torch.ops.aten

_HALVES = (torch.float16, torch.bfloat16)

#: Ops of one number a result that are exact in every type.
_EXACT = frozenset(
    "abs neg relu sign positive clone _to_copy copy fill masked_fill where maximum minimum fmax fmin clamp clamp_min "
    "clamp_max threshold hardtanh eq ne lt le gt ge isnan isinf isfinite logical_not logical_and logical_or "
    "logical_xor ceil floor round trunc nan_to_num".split()
)

#: Ops that add up or normalise.
_SUMS = frozenset(
    "mm bmm addmm baddbmm addmv addbmm mv dot matmul linear sum mean var std var_mean std_mean prod cumsum cumprod "
    "_softmax _log_softmax softmax log_softmax logsumexp native_layer_norm native_group_norm native_batch_norm "
    "_native_batch_norm_legit_no_training _native_batch_norm_legit layer_norm group_norm rms_norm _fused_rms_norm norm "
    "linalg_vector_norm avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "upsample_bilinear2d upsample_bicubic2d upsample_linear1d upsample_trilinear3d grid_sampler_2d scatter_add "
    "index_add logcumsumexp".split()
)


def compute_wide(node: Node, call: Callable[..., Node]) -> None:
    """Write an op over half precision as float32 between casts, if it is one that rounds.

    Args:
        node: any call.
        call: inserts a call where the graph inserts now and gives it its fake value.
    """
    target = node.target
    if not isinstance(target, OpOverload) or target.namespace != "aten" or not _rounds(target):
        return
    if "dtype" in node.kwargs or not _halves(node.all_input_nodes):
        return
    before = tensors_of(node.meta["val"])
    with node.graph.inserting_before(node):
        widened = {source: call(aten._to_copy.default, (source,), {"dtype": torch.float32})
                   for source in _halves(node.all_input_nodes)}  # fmt: skip
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda one: widened.get(one, one))
        result = call(target, args, kwargs)
    after = tensors_of(result.meta["val"])
    with node.graph.inserting_before(node):
        if isinstance(node.meta["val"], torch.Tensor):
            if after[0].dtype != before[0].dtype:
                result = call(aten._to_copy.default, (result,), {"dtype": before[0].dtype})
            node.replace_all_uses_with(result)
            node.graph.erase_node(node)
            return
    for user in list(node.users):
        if user.op == "output":
            continue
        wanted, (_, index) = user.meta["val"], user.args
        with node.graph.inserting_before(user):
            part = call(user.target, (result, index))
            if isinstance(wanted, torch.Tensor) and part.meta["val"].dtype != wanted.dtype:
                part = call(aten._to_copy.default, (part,), {"dtype": wanted.dtype})
        user.replace_all_uses_with(part)
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _rounds(target: OpOverload) -> bool:
    name = target._schema.name.removeprefix("aten::")
    return name in _SUMS or (torch.Tag.pointwise in target.tags and name not in _EXACT)


def _halves(nodes: list[Node]) -> list[Node]:
    values: list[tuple[Node, Any]] = [(node, node.meta.get("val")) for node in nodes]
    return [node for node, value in values if isinstance(value, torch.Tensor) and value.dtype in _HALVES]
