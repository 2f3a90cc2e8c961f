"""Operations of fused attention, from the shapes of query, key and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.costmodels.tables import names
from djinn_fx.srg.graph import fake_value, size_hint

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AttentionForm:
    """How one attention op takes its arguments.

    Attributes:
        first: position of the query; key and value follow it.
        heads_axis: 1 for [batch, heads, length, size], 2 for [batch, length, heads, size].
        backward: whether the op computes the gradients.
    """

    first: int = 0
    heads_axis: int = 1
    backward: bool = False


_FORWARD = sorted(
    names(
        """scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_flash_attention
_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_fused_attention_overrideable"""
    )
)

#: Attention ops by bare name. The forms with packed sequences are refused when they are met.
ATTENTION: dict[str, AttentionForm] = {
    **{name: AttentionForm() for name in (*_FORWARD, "flex_attention")},
    **{f"{name}_backward": AttentionForm(first=1, backward=True) for name in _FORWARD},
    "flex_attention_backward": AttentionForm(backward=True),
    "_flash_attention_forward": AttentionForm(heads_axis=2),
    "_efficient_attention_forward": AttentionForm(heads_axis=2),
    "_flash_attention_backward": AttentionForm(first=1, heads_axis=2, backward=True),
    "_efficient_attention_backward": AttentionForm(first=1, heads_axis=2, backward=True),
}


def shape_of(tensor: torch.Tensor) -> Shape:
    """A tensor's sizes with symbols replaced by their hints; adds no guard."""
    return tuple(size if type(size) is int else size_hint(size) for size in tensor.shape)


def tensor_of(argument: Any) -> torch.Tensor | None:
    """The fake tensor behind an argument of a node, if it is one."""
    value = fake_value(argument) if isinstance(argument, Node) else argument
    return value if isinstance(value, torch.Tensor) else None


def attention_operations(form: AttentionForm, node: Node) -> int:
    """Operations of an attention op; a causal mask is not credited, as in ``torch.utils.flop_counter``.

    Raises:
        ValueError: packed sequences, whose lengths are known only at run time.
    """
    tensors = [tensor_of(argument) for argument in node.args[form.first : form.first + 3]]
    query, key, value = (() if tensor is None else shape_of(tensor) for tensor in tensors)
    if not len(query) == len(key) == len(value) == 4:
        raise ValueError("attention over packed sequences: their lengths are known only at run time")
    lengths_axis = 3 - form.heads_axis
    pairs = query[0] * query[form.heads_axis] * query[lengths_axis] * key[lengths_axis]
    if form.backward:  # the scores once more; then the gradients of scores and value, of query and key
        return 2 * pairs * (3 * query[3] + 2 * value[3])
    return 2 * pairs * (query[3] + value[3])
