"""What MKL is given for a packed weight and does not write to holds no memory."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import pytest
import torch
from torch import nn

from djinn_fx.engines.packed import ops as packed_ops
from tests.alone import alone
from tests.concrete import concrete
from tests.engines.packed.packing import engine_of, region_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="other C libraries keep nothing to speak of"),
    pytest.mark.skipif(not packed_ops.has_mkl(), reason="this torch has no packed products of MKL"),
]

PAGE = mmap.PAGESIZE


def resident_share(packed: torch.Tensor) -> float:
    """Of the memory that a packed weight was given."""
    start, nbytes = torch.ops.mkldnn.data_ptr(packed), torch.ops.mkldnn._nbytes(packed)
    begin, end = -(-start // PAGE) * PAGE, (start + nbytes) // PAGE * PAGE
    pages = ctypes.create_string_buffer((end - begin) // PAGE)
    library: Any = ctypes.CDLL(None)
    assert library.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), pages) == 0
    return sum(one & 1 for one in pages.raw) / len(pages.raw)


def leave_memory_behind() -> list[torch.Tensor]:
    """Free 96 MB that were written to, and give back what keeps the C library from giving them back."""
    torch.ones(30 << 18)  # from here on blocks of some MB are not the system's own
    pairs = [(torch.ones(3 << 20), torch.ones(64)) for _ in range(8)]
    return [small for _, small in pairs]


def most_that_is_resident() -> float:
    """Of what MKL was given for eight weights, where freed memory is at hand."""
    kept = leave_memory_behind()
    weights = [torch.randn(512, 512) for _ in range(8)]
    packed_ops.make_room_for_mkl()
    packed = [packed_ops.pack_mkl_op()(weight, 64) for weight in weights]
    assert len(kept) == 8
    return max(map(resident_share, packed))


def test_what_mkl_does_not_write_to_holds_nothing() -> None:
    assert float(alone(most_that_is_resident)) < 0.5


@pytest.mark.parametrize(("way", "rooms"), [("onednn", 0), ("mkl", 1)])
def test_room_is_made_once_and_only_for_mkl(way: str, rooms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(packed_ops, "make_room_for_mkl", lambda: made.append("room"))
    region = region_of(nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 24)), torch.randn(3, 24))
    run: Any = engine_of(way).compile(region).ready
    with torch.no_grad():
        run(concrete(region.example_inputs))
    assert run.memory_bytes > 0
    assert len(made) == rooms
