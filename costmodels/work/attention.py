"""Operations and sizes of fused attention, from the shapes of query, key and value.

Counted as ``torch.utils.flop_counter`` counts: two products forward, five backward (the scores once more), a causal
mask not credited, key heads shared by query heads (GQA) counted for every query head. The softmax between them is not
counted as operations; ``sides`` tells its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from djinn_fx.costmodels.work.call import Call, Counted
from djinn_fx.costmodels.work.tables import names


@dataclass(frozen=True, kw_only=True)
class AttentionForm:
    """How one attention op takes its arguments.

    Attributes:
        first: position of the query; key and value follow it.
        heads_axis: 1 for [batch, heads, length, size], 2 for [batch, length, heads, size].
        backward: whether the op computes the gradients.
        offsets: position of the query sequences' offsets in a packed batch, those of the keys and the two longest
            lengths follow; None: the op has no packed form.
    """

    first: int = 0
    heads_axis: int = 1
    backward: bool = False
    offsets: int | None = None


_FORWARD = sorted(
    names(
        """scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_flash_attention
_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_fused_attention_overrideable
_scaled_dot_product_attention_math_for_mps"""
    )
)

#: Attention ops by bare name.
ATTENTION: dict[str, AttentionForm] = {
    **{name: AttentionForm() for name in (*_FORWARD, "flex_attention")},
    **{f"{name}_backward": AttentionForm(first=1, backward=True) for name in _FORWARD},
    "flex_attention_backward": AttentionForm(backward=True),
    "_cudnn_attention_forward": AttentionForm(offsets=4),
    "_flash_attention_forward": AttentionForm(heads_axis=2, offsets=3),
    "_efficient_attention_forward": AttentionForm(heads_axis=2, offsets=4),
    "_flash_attention_backward": AttentionForm(first=1, heads_axis=2, backward=True, offsets=6),
    "_efficient_attention_backward": AttentionForm(first=1, heads_axis=2, backward=True, offsets=6),
}


def attention_rule(form: AttentionForm, call: Call) -> Counted:
    """Operations of an attention op.

    A packed batch counts every sequence as long as the longest, as torch does where the offsets are not known.

    Raises:
        ValueError: query, key and value do not fit each other.
    """
    query, key, value = (call.shape(form.first + place) for place in range(3))
    if form.offsets is not None and call.argument(form.offsets) is not None:
        sides = _packed(form, call, query, key, value)
    elif not len(query) == len(key) == len(value) or len(query) not in (3, 4):
        raise ValueError("query, key and value do not have the same 3 or 4 dimensions")
    else:
        sides = _dense(form, query, key, value)
    batch, heads, key_heads, length, key_length, size, value_size = sides
    if type(heads) is int and type(key_heads) is int and (not key_heads or heads % key_heads):
        raise ValueError(f"{heads} query heads cannot share {key_heads} key heads")
    pairs = batch * heads * length * key_length
    if form.backward:  # the scores once more; then the gradients of scores and value, of query and key
        return 2 * pairs * (3 * size + 2 * value_size), 0, 0, sides
    return 2 * pairs * (size + value_size), 0, 0, sides


def _dense(form: AttentionForm, query: Any, key: Any, value: Any) -> tuple[Any, ...]:
    if len(query) == 3:  # the composite op without heads
        return query[0], 1, 1, query[1], key[1], query[2], value[2]
    heads, length = form.heads_axis, 3 - form.heads_axis
    return query[0], query[heads], key[heads], query[length], key[length], query[3], value[3]


def _packed(form: AttentionForm, call: Call, query: Any, key: Any, value: Any) -> tuple[Any, ...]:
    """Sequences one after the other in [tokens, heads, size]; their number is one less than the offsets'."""
    place = form.offsets or 0
    sequences = call.shape(place)[0] - 1
    longest, longest_key = call.argument(place + 2), call.argument(place + 3)
    if longest is None or longest_key is None:
        raise ValueError("a packed batch without its longest lengths: they are known only at run time")
    return sequences, query[-2], key[-2], longest, longest_key, query[-1], value[-1]
