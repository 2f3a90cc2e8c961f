"""Frames as they are given to Ray: small ones as bytes, large tensors apart and not copied, and read as they lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.carried import SMALL_BYTES, begin_of, carried, kept, size_of
from djinn_fx.remote.wire.frame import decode, encode, joined
from djinn_fx.remote.wire.payload import payload_of
from tests.examples import examples

LARGE = SMALL_BYTES
SIZES = (0, 1, 63, 64, 1000, LARGE, LARGE + 1, LARGE + 64, 3 * LARGE)


def pieces(sizes: list[int], *, digests: bool = False) -> list[bytes | memoryview]:
    """A frame of tensors of so many bytes."""
    tensors = {str(n): torch.arange(size, dtype=torch.int64).to(torch.uint8) for n, size in enumerate(sizes)}
    return encode("call", {"a": 1}, {name: payload_of(one) for name, one in tensors.items()}, digests=digests)


def test_a_small_frame_is_bytes() -> None:
    frame = carried(pieces([5, 1000]))
    assert isinstance(frame, bytes)
    assert frame == joined(pieces([5, 1000])).tobytes() == kept(pieces([5, 1000]))


def test_a_large_tensor_is_not_copied() -> None:
    tensor = torch.zeros(LARGE + 1, dtype=torch.uint8)
    frame = carried(encode("call", {}, {"x": payload_of(tensor)}, digests=False))
    assert isinstance(frame, list)
    assert tensor.data_ptr() in [one.ctypes.data for one in frame]
    assert decode(frame).tensors["x"].data_ptr() == tensor.data_ptr()
    assert not np.shares_memory(np.asarray(kept(encode("call", {}, {"x": payload_of(tensor)}))), tensor.numpy())


@examples(60)
@given(st.lists(st.sampled_from(SIZES), max_size=6), st.booleans())
def test_it_is_read_as_if_it_were_one(sizes: list[int], digests: bool) -> None:
    one, frame = joined(pieces(sizes, digests=digests)), carried(pieces(sizes, digests=digests))
    assert size_of(frame) == len(one)
    assert bytes(begin_of(frame)) == one[: len(begin_of(frame))].tobytes()
    wanted, found = decode(one), decode(frame)
    assert (found.kind, found.fields, found.digests) == (wanted.kind, wanted.fields, wanted.digests)
    assert list(found.tensors) == list(wanted.tensors)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in wanted.tensors.items())


@examples(200)
@given(st.data())
def test_pieces_cut_anyhow_are_the_frame_or_an_error(data: st.DataObject) -> None:
    whole = joined(pieces([100, LARGE + 1, 7, 64]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    frame = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    if data.draw(st.booleans()):
        frame.pop(data.draw(st.integers(0, len(frame) - 1)))
    try:
        found = decode(frame)
    except EngineError:
        return
    assert all(torch.equal(found.tensors[name], one) for name, one in decode(whole).tensors.items())


@pytest.mark.parametrize("frame", [[], [b""], [np.zeros(0, dtype=np.uint8)] * 3])
def test_nothing_is_an_error(frame: list[np.ndarray]) -> None:
    with pytest.raises(EngineError, match="cut short"):
        decode(frame)
