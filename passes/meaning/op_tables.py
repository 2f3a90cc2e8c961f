"""Which ops do what, as far as streams and attentions go: tables of names, and operands by schema."""

from __future__ import annotations

from typing import Any

from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.passes.meaning.dataflow import base_name

MATMULS = frozenset(
    {"aten.mm", "aten.bmm", "aten.matmul", "aten.linear", "aten.mv", "aten._int_mm", "aten._scaled_mm"}
    | {"aten._grouped_mm", "aten._weight_int8pack_mm", "aten._weight_int4pack_mm"}
)
BIASED_MATMULS = frozenset({"aten.addmm", "aten.baddbmm", "aten.addmv", "aten.addbmm"})
CONVOLUTIONS = frozenset(
    {"aten.convolution", "aten._convolution", "aten.conv1d", "aten.conv2d", "aten.conv3d"}
    | {"aten.cudnn_convolution", "aten.mkldnn_convolution", "aten.conv_transpose1d", "aten.conv_transpose2d"}
)
LOOKUPS = frozenset({"aten.embedding", "aten._embedding_bag", "aten.embedding_bag", "aten._embedding_bag_forward_only"})
PICKS = frozenset({"aten.index", "aten.gather", "aten.index_select", "aten._unsafe_index", "aten.take"})
SOFTENERS = frozenset({"aten._softmax", "aten.softmax", "aten._safe_softmax", "aten.exp", "aten.exp2", "aten.sigmoid"})
SPECTRA = frozenset({"aten.stft", "aten._fft_r2c", "aten.unfold"})
RUNNING_SUMS = frozenset({"aten.cumsum", "aten.logcumsumexp"})
#: Ops that put a fresh value into, or next to, an old one: how caches are updated.
JOINS = frozenset(
    {"aten.cat", "aten.stack", "aten.where", "aten.scatter", "aten.scatter_add", "aten.index_put", "aten.index_copy"}
    | {"aten.slice_scatter", "aten.select_scatter", "aten.masked_scatter", "aten.index_add", "aten.copy", "aten.copy_"}
    | {"aten.index_copy_", "aten.index_put_", "aten.scatter_", "aten.index_add_", "aten._unsafe_index_put"}
)
MOVES = frozenset(
    {"aten.view", "aten._unsafe_view", "aten.reshape", "aten.unsqueeze", "aten.squeeze", "aten.expand", "aten.slice"}
    | {"aten.transpose", "aten.permute", "aten.t", "aten.clone", "aten._to_copy", "aten.alias", "aten.detach"}
    | {"aten.select", "aten.repeat", "aten.lift_fresh_copy", "prims.convert_element_type", "aten.as_strided"}
    | {"aten._reshape_copy", "aten.contiguous", "aten.to", "prims.broadcast_in_dim", "aten.view_copy"}
)
SUMS = frozenset({"aten.add", "aten.sub", "operator.add", "operator.sub"})

_OPERANDS: dict[OpOverload, tuple[int, int, int] | None] = {}


def attention_operands(target: OpOverload) -> tuple[int, int, int] | None:
    """Positions of query, key and value in an op's schema, if it is an attention."""
    if target not in _OPERANDS:
        names = [argument.name for argument in target._schema.arguments]
        makes_tensors = any(r.type.kind() == "TensorType" for r in target._schema.returns)
        found = None
        for query, key, value in (("query", "key", "value"), ("q", "k", "v"), ("src", "src", "src")):
            fits = query != "src" or "encoder_layer" in str(target)
            if fits and makes_tensors and {query, key, value} <= set(names):
                found = (names.index(query), names.index(key), names.index(value))
                break
        _OPERANDS[target] = found
    return _OPERANDS[target]


def argument(node: Node, position: int) -> Any:
    """The value of an argument by its place in the schema, wherever it was passed."""
    if position < len(node.args):
        return node.args[position]
    assert isinstance(node.target, OpOverload)
    return node.kwargs.get(node.target._schema.arguments[position].name)


def leaves(node: Node, returned: set[Node]) -> bool:
    """Whether a value, or one it is a view or a copy of, is an output of the graph or written into an input."""
    for _ in range(8):
        if node in returned or any(base_name(user) == "aten.copy_" for user in node.users if user.op != "output"):
            return True
        if node.op != "call_function" or len(node.all_input_nodes) != 1 or base_name(node) not in MOVES:
            return False
        node = node.all_input_nodes[0]
    return False
