"""Carrying values between devices: strides stay, and pinned memory is used again only when it has been read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from djinn_fx.runtime.devices.cuda.carrying import Way
from djinn_fx.runtime.devices.cuda.staging import MOST_PIECES, Staging
from djinn_fx.runtime.devices.cuda.streams import streams_of
from djinn_fx.settings.devices import CudaDevice
from tests.runtime.devices.cuda.standing import Event, Notes

BASE = torch.arange(60.0).view(3, 4, 5)
VALUES = {
    "plain": BASE,
    "transposed": BASE.transpose(0, 2),
    "every other": BASE[:, ::2, 1:],
    "expanded": BASE[:1].expand(7, 4, 5),
    "overlapping": BASE.as_strided((4, 4), (1, 2), 3),
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 5),
    "bool": BASE > 7,
    "complex": torch.complex(BASE, BASE),
    "conjugate": torch.complex(BASE, BASE).conj(),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("apart", [frozenset(), frozenset({(0, 1)}), frozenset({(1, 0)})])
def test_a_value_arrives_with_its_strides(name: str, apart: frozenset[tuple[int, int]]) -> None:
    notes, value = Notes(2, apart), VALUES[name]
    way = Way(*(streams_of(CudaDevice(name=f"cuda:{place}"), notes) for place in range(2)), Staging(notes))
    made, _ = way.carried(value, ())
    assert torch.equal(made, value)
    assert (made.shape, made.stride(), made.dtype) == (value.shape, value.stride(), value.dtype)
    assert made.untyped_storage().data_ptr() != value.untyped_storage().data_ptr() or not value.numel()
    assert bool(notes.pieces) is bool(apart), "only what cannot go straight passes through the host"


def test_what_is_no_tensor_is_handed_on() -> None:
    notes = Notes()
    way = Way(*(streams_of(CudaDevice(name=f"cuda:{place}"), notes) for place in range(2)), Staging(notes))
    assert way.carried(17, ())[0] == 17


def lent(staging: Staging, size: int, read: Event) -> Tensor:
    piece = staging.take(size)
    staging.give(piece, read)
    return piece


def test_pinned_memory_is_lent_again_once_it_has_been_read() -> None:
    notes = Notes()
    staging, read = Staging(notes), notes.new_event()
    read.happened = False
    first = lent(staging, 100, read)
    other = lent(staging, 100, notes.new_event())
    assert other.data_ptr() != first.data_ptr()
    read.happened = True
    small = lent(staging, 10, notes.new_event())
    assert small.data_ptr() in (first.data_ptr(), other.data_ptr())
    assert lent(staging, 1000, notes.new_event()).numel() >= 1000
    assert len(notes.pieces) == 3


def test_few_pieces_are_kept_and_these_the_largest() -> None:
    notes = Notes()
    staging = Staging(notes)
    taken = [staging.take(size) for size in range(1, MOST_PIECES + 4)]
    for piece in taken:
        staging.give(piece, notes.new_event())
    again = [staging.take(1) for _ in range(MOST_PIECES)]
    assert sorted(piece.numel() for piece in again) == list(range(4, MOST_PIECES + 4))
    assert len(notes.pieces) == len(taken)
