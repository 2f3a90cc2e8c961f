"""Layers of a Transformers cache over what was gathered for one step.

A row of a batch holds its session's tokens at the right end, as in a batch that is padded on the left, so masks and
windows are those that every model of Transformers makes for such a batch. The classes derive from Transformers' own and
are made when the first is wanted: the package imports without it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.sessions.caches.library import library


def quantise(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Int8 codes and one float32 scale for each token and head, symmetric.

    Args:
        states: any shape; the last dimension is a head's width.

    Returns:
        Codes of the same shape; scales of that shape with a last dimension of 1.
    """
    wide = states.float()
    scales = wide.abs().amax(-1, keepdim=True) / 127
    codes = torch.where(scales > 0, wide / scales, 0.0).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def dequantise(quantised: tuple[torch.Tensor, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """What codes and scales stand for."""
    codes, scales = quantised
    return (codes.float() * scales).to(dtype)


@functools.cache
def paged_layer() -> Any:
    """The class of layers with rows."""
    base: Any = library().CacheLayerMixin

    class PagedLayer(base):  # type: ignore[misc]  # which class it is shows only at run time
        """The past of a batch in one layer; new rows are added to it once, and kept aside to be stored.

        Args:
            keys, values: shape (batch, heads, past, width); with room for the new tokens at the end unless ``joins``.
            past: tokens of the longest row, of which this layer holds the last.
            window: tokens that a token sees with itself; 0 for all.
            quantised: new rows are what is left of them after rounding to int8.
            joins: make a tensor of past and new rows, rather than write into the room at the end: a compiled graph
                that wrote into its inputs, which are parts of one tensor, would have to tell them apart.
        """

        def __init__(
            self, keys: torch.Tensor, values: torch.Tensor, past: int, window: int, quantised: bool, joins: bool
        ) -> None:
            super().__init__()
            self.keys, self.values = keys, values
            self.past = past
            self.is_sliding = window > 0
            self.sliding_window = window
            self.quantised = quantised
            self.joins = joins
            self.is_initialized = True
            self.dtype, self.device = keys.dtype, keys.device
            self.new_keys: Any = None
            self.new_values: Any = None

        def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
            """Nothing is left to do."""

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Past and new rows."""
            if self.quantised:
                self.new_keys, self.new_values = quantise(key_states), quantise(value_states)
                key_states = dequantise(self.new_keys, self.dtype)
                value_states = dequantise(self.new_values, self.dtype)
            else:
                self.new_keys, self.new_values = key_states, value_states
            if self.joins:
                return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)
            count = key_states.shape[-2]
            self.keys[:, :, -count:] = key_states
            self.values[:, :, -count:] = value_states
            return self.keys, self.values

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            """Rows that a query sees, and the position of the first."""
            held = self.past if not self.is_sliding else min(self.past, self.sliding_window - 1)
            return held + query_length, self.past - held

        def get_seq_length(self) -> int:
            """Tokens of the past, padding counted."""
            return self.past

        def get_max_length(self) -> int:
            """There is no bound."""
            return -1

    return PagedLayer


def state_layer(number: int, states: Sequence[tuple[int, bool, torch.Tensor]], fresh: bool) -> Any:
    """A layer without rows.

    Args:
        number: how many states of each sort it has.
        states: which, whether it is the recurrent one, and its tensor for the batch.
        fresh: the sessions have no past: their states are made by the first call.
    """
    layer = library().LinearAttentionLayer(number_of_states=number)
    if fresh:
        return layer
    for place, recurrent, tensor in states:
        layer.has_previous_state[place] = True
        layer.device, layer.dtype = tensor.device, tensor.dtype
        if recurrent:
            layer.recurrent_states[place] = tensor
            layer.is_recurrent_states_initialized[place] = True
        else:
            layer.conv_states[place] = tensor
            layer.is_conv_states_initialized[place] = True
            layer.conv_kernel_size[place] = tensor.shape[-1]
    return layer
