"""One step on a model: the past of its sessions is gathered from pages, and what is new is written back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from djinn_fx.sessions.caches.holding import Holding, rows_of
from djinn_fx.sessions.caches.layers import dequantise, paged_layer, state_layer
from djinn_fx.sessions.caches.layout import Group, Kept, Layout, Segment

Places = npt.NDArray[np.int32]


@dataclass
class Batch:
    """Sessions of one step, each with as many new tokens as the others.

    Attributes:
        ids: new tokens, shape (batch, new).
        holdings: of the sessions; rows of the batch behind the last of them are padding.
        places: on the device, by page.
        past: tokens of the longest past, padding of buckets counted.
        joins: see ``PagedLayer``.
    """

    ids: torch.Tensor
    holdings: Sequence[Holding]
    places: Places
    past: int
    joins: bool = False
    layers: list[Any] = field(default_factory=list)
    crossing: list[Any] = field(default_factory=list)
    _index: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def new(self) -> int:
        """New tokens of each session."""
        return self.ids.shape[1]

    @property
    def fresh(self) -> bool:
        """Whether the sessions have no past."""
        return self.past == 0

    @property
    def encoded(self) -> int:
        """The encoder's tokens, of the session that has most."""
        return max((holding.encoded for holding in self.holdings), default=0)

    def mask(self) -> torch.Tensor:
        """1 where a token is, 0 where padding is; shape (batch, past + new)."""
        made = np.zeros((self.ids.shape[0], self.past + self.new), dtype=np.int64)
        made[:, self.past :] = 1
        for row, holding in enumerate(self.holdings):
            made[row, self.past - holding.cached : self.past] = 1
        return torch.from_numpy(made).to(self.ids.device)

    def encoder_mask(self) -> torch.Tensor:
        """The same for the encoder's tokens; padding rows see all."""
        made = np.ones((self.ids.shape[0], self.encoded), dtype=np.int64)
        for row, holding in enumerate(self.holdings):
            made[row, : self.encoded - holding.encoded] = 0
        return torch.from_numpy(made).to(self.ids.device)

    def positions(self) -> torch.Tensor:
        """Of each new token in its own context; shape (batch, new)."""
        starts = np.zeros((self.ids.shape[0], 1), dtype=np.int64)
        starts[: len(self.holdings), 0] = [holding.cached for holding in self.holdings]
        return torch.from_numpy(starts + np.arange(self.new)).to(self.ids.device)

    # -- the past ----------------------------------------------------------------------------------------------------

    def gather(self, layout: Layout, memory: torch.Tensor) -> None:
        """Make the cache's layers from pages."""
        self.layers = [None] * layout.layers
        crossing: dict[int, Any] = {}
        for number, group in enumerate(layout.groups):
            target = crossing if group.kept is Kept.ENCODED else self.layers
            if group.kept is Kept.ENCODED and self.fresh:
                found = self._no_rows(group, layout, memory)
            else:
                found = self._rows(number, group, layout, memory)
            for layer, (keys, values) in _by_layer(group, found, layout.dtype).items():
                past = keys.shape[2] if group.kept is Kept.ENCODED else self.past
                window = group.window if group.kept is Kept.WINDOW else 0
                joins = self.joins or group.kept is Kept.ENCODED
                made = paged_layer()(keys, values, past, window, group.quantised, joins)
                target[layer] = made
        self.crossing = [crossing[layer] for layer in sorted(crossing)]
        if layout.states:
            self._states(layout, memory)

    def _rows(self, number: int, group: Group, layout: Layout, memory: torch.Tensor) -> torch.Tensor:
        """Rows of all segments of a group; shape (segments, batch, tokens, row bytes)."""
        size, batch = layout.page_bytes, self.ids.shape[0]
        encoded = group.kept is Kept.ENCODED
        held = self.encoded if encoded else self.past if not group.window else min(self.past, group.window - 1)
        room = 0 if self.joins or encoded else self.new
        # What stands nowhere is a row of the pool's first page, which is zero and stays it.
        index = np.zeros((batch, held + room), dtype=np.int64)
        for row, holding in enumerate(self.holdings):
            tokens = holding.tokens_of(group)
            count = min(tokens, held)
            if count:
                pages = holding.lists[number]
                rows = rows_of(group, pages, self.places, tokens - count, count, size)
                index[row, held - count : held] = rows
        segments = np.arange(len(group.segments))[:, None, None] * group.page_tokens(size)
        flat = torch.from_numpy((index[None] + segments).reshape(-1)).to(memory.device)
        taken = _as_rows(group, layout, memory).index_select(0, flat)
        return taken.view(len(group.segments), batch, held + room, taken.shape[1])

    def _no_rows(self, group: Group, layout: Layout, memory: torch.Tensor) -> torch.Tensor:
        shape = (len(group.segments), self.ids.shape[0], 0, _as_rows(group, layout, memory).shape[-1])
        return memory.new_zeros(shape, dtype=torch.uint8 if group.quantised else layout.dtype)

    def _states(self, layout: Layout, memory: torch.Tensor) -> None:
        by_layer: dict[int, list[tuple[int, bool, torch.Tensor]]] = {}
        count = len(self.holdings)
        if not self.fresh:
            slots = torch.from_numpy(np.stack([self.places[holding.states] for holding in self.holdings]))
            taken = memory[slots.to(memory.device).long()].reshape(count, -1)
            if count < self.ids.shape[0]:
                taken = torch.cat([taken, taken.new_zeros((self.ids.shape[0] - count, taken.shape[1]))])
        for state in layout.states:
            by_layer.setdefault(state.layer, [])
            if not self.fresh:
                data = taken[:, state.offset : state.offset + state.nbytes].contiguous()
                tensor = data.view(state.dtype).view(-1, *state.shape)
                by_layer[state.layer].append((state.number, state.recurrent, tensor))
        for layer in by_layer:
            number = 1 + max(state.number for state in layout.states if state.layer == layer)
            self.layers[layer] = state_layer(number, by_layer[layer], self.fresh)

    # -- what is new -------------------------------------------------------------------------------------------------

    def scatter(self, layout: Layout, memory: torch.Tensor) -> None:
        """Write new rows and states into the sessions' pages, which must have room for them."""
        for number, group in enumerate(layout.groups):
            encoded = group.kept is Kept.ENCODED
            if encoded and not self.fresh:
                continue
            self._write(number, group, layout, memory, self.crossing if encoded else self.layers)
        if layout.states:
            self._write_states(layout, memory)

    def _write(self, number: int, group: Group, layout: Layout, memory: torch.Tensor, layers: list[Any]) -> None:
        size, count = layout.page_bytes, len(self.holdings)
        rows = [_new_rows(layers[segment.layer], segment, count, group) for segment in group.segments]
        new = rows[0].shape[1]
        starts = [0 if group.kept is Kept.ENCODED else one.cached for one in self.holdings]
        found = [
            rows_of(group, one.lists[number], self.places, start, new, size)
            for one, start in zip(self.holdings, starts, strict=True)
        ]
        index = np.stack(found)
        segments = np.arange(len(group.segments))[:, None, None] * group.page_tokens(size)
        flat = torch.from_numpy((index[None] + segments).reshape(-1)).to(memory.device)
        target = _as_rows(group, layout, memory)
        stacked = torch.stack(rows).view(-1, rows[0].shape[-1])
        target.index_copy_(0, flat, stacked.view(target.dtype))

    def _write_states(self, layout: Layout, memory: torch.Tensor) -> None:
        count = len(self.holdings)
        made = memory.new_zeros((count, layout.state_pages * layout.page_bytes))
        for state in layout.states:
            layer = self.layers[state.layer]
            tensor = (layer.recurrent_states if state.recurrent else layer.conv_states)[state.number][:count]
            data = tensor.to(state.dtype).contiguous().reshape(count, -1).view(torch.uint8)
            made[:, state.offset : state.offset + state.nbytes] = data
        slots = torch.from_numpy(np.concatenate([self.places[holding.states] for holding in self.holdings]))
        memory.index_copy_(0, slots.to(memory.device).long(), made.view(-1, layout.page_bytes))


def _as_rows(group: Group, layout: Layout, memory: torch.Tensor) -> torch.Tensor:
    """The pool as rows of a group, in the type that they are stored in."""
    flat = memory.view(-1)
    if not group.quantised:
        flat = flat.view(layout.dtype)
        return flat.view(-1, group.row_bytes // layout.dtype.itemsize)
    return flat.view(-1, group.row_bytes)


def _by_layer(group: Group, rows: torch.Tensor, dtype: torch.dtype) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer; shape (batch, heads, tokens, width)."""
    found: dict[int, list[torch.Tensor]] = {}
    for segment, part in zip(group.segments, rows, strict=True):
        found.setdefault(segment.layer, []).append(_read(part, segment, group, dtype))
    return {layer: (keys, values) for layer, (keys, values) in found.items()}


def _read(rows: torch.Tensor, segment: Segment, group: Group, dtype: torch.dtype) -> torch.Tensor:
    batch, tokens, _ = rows.shape
    numbers = segment.heads * segment.width
    if not group.quantised:
        return rows[:, :, :numbers].view(batch, tokens, segment.heads, segment.width).transpose(1, 2)
    codes = rows[:, :, :numbers].view(torch.int8).view(batch, tokens, segment.heads, segment.width)
    scales = rows[:, :, numbers : numbers + 4 * segment.heads].contiguous().view(torch.float32)
    return dequantise((codes, scales.view(batch, tokens, segment.heads, 1)), dtype).transpose(1, 2)


def _new_rows(layer: Any, segment: Segment, count: int, group: Group) -> torch.Tensor:
    """What a step adds to a segment; shape (sessions, new tokens, row)."""
    new = layer.new_values if segment.values else layer.new_keys
    if not group.quantised:
        rows = new[:count].transpose(1, 2).flatten(2)
        short = group.row_bytes // rows.dtype.itemsize - rows.shape[-1]
        return torch.nn.functional.pad(rows, (0, short)) if short else rows
    codes, scales = (part[:count].transpose(1, 2).flatten(2) for part in new)
    rows = torch.cat([codes.view(torch.uint8), scales.contiguous().view(torch.uint8)], dim=-1)
    short = group.row_bytes - rows.shape[-1]
    return torch.nn.functional.pad(rows, (0, short)) if short else rows
