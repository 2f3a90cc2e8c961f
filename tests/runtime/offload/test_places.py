"""Weights on a device, with streams that take notes in place of CUDA's: what is waited for, and what is lent."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import djinn_fx
from djinn_fx.errors import SettingsError
from djinn_fx.runtime.offload import load
from djinn_fx.runtime.offload.places import DeviceMemory
from tests.runtime.offload.saved import WIDTH, Stack, bytes_of, lender, offloaded, save

LAYER = WIDTH * WIDTH * 4


class Notes:
    """Stands in for ``torch.cuda``: one stream computes, what else there is was made; all that happens is noted."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any, int]] = []
        self.numbers = itertools.count()
        self.computes = Stream(self)

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def Stream(self, device: torch.device) -> Stream:  # noqa: N802  (torch's name)
        return Stream(self)

    def Event(self) -> Event:  # noqa: N802
        return Event(self)

    def current_stream(self, device: torch.device) -> Stream:
        return self.computes

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        yield

    def memory_allocated(self, device: torch.device) -> int:
        return 0

    def empty_cache(self) -> None:
        self.log.append(("empty_cache", None, 0))


class Stream:
    def __init__(self, cuda: Notes) -> None:
        self.cuda = cuda

    def wait_stream(self, other: Stream) -> None:
        self.cuda.log.append(("wait_stream", self, 0))

    def wait_event(self, event: Event) -> None:
        self.cuda.log.append(("wait", self, event.number))


class Event:
    def __init__(self, cuda: Notes) -> None:
        self.cuda, self.number = cuda, next(cuda.numbers)

    def record(self, stream: Stream) -> None:
        self.cuda.log.append(("record", stream, self.number))

    def synchronize(self) -> None:
        self.cuda.log.append(("synchronize", None, self.number))


def on_device(monkeypatch: pytest.MonkeyPatch, folder: Path, room: int, kept: int = 0) -> tuple[Any, Notes]:
    """The model, offloaded to a device of notes."""
    cuda = Notes()
    place = DeviceMemory(torch.device("cpu", 0), kept, cuda)
    place.device = torch.device("cpu")  # as tensors have it
    monkeypatch.setattr(load, "place_of", lambda device, host: place)
    return offloaded(Stack, folder, room), cuda


def saved(tmp_path: Path) -> tuple[Stack, torch.Tensor]:
    torch.manual_seed(0)
    model = Stack().eval()
    save(model, tmp_path)
    return model, torch.randint(0, 1000, (2, 5))


@pytest.mark.parametrize("kept", [0, 3 * LAYER, 1 << 30])
def test_answers_are_those_of_the_model_in_memory(kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = saved(tmp_path)
    streamed, _ = on_device(monkeypatch, tmp_path, bytes_of(model) // 2, kept)
    with torch.no_grad():
        for _ in range(4):
            assert torch.equal(streamed(ids), model(ids))
    assert lender(streamed).ring is not None


def test_room_that_was_lent_is_written_after_what_computed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = saved(tmp_path)
    streamed, cuda = on_device(monkeypatch, tmp_path, bytes_of(model) // 2)
    with torch.no_grad():
        for _ in range(3):
            streamed(ids)
    lender(streamed).ring.stop()  # type: ignore[union-attr]
    pending: int | None = None  # the last loan's end; a stream does things in order, so it stands for those before it
    loans = copies = 0
    for what, stream, number in cuda.log:
        if what == "record" and stream is cuda.computes:
            pending, loans = number, loans + 1
        elif what == "wait":
            assert stream is not cuda.computes
            pending = None if number == pending else pending
        elif what == "record":
            assert pending is None
            copies += 1
    assert loans > 10
    assert copies > 10


def test_each_copy_is_over_before_it_is_lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = saved(tmp_path)
    streamed, cuda = on_device(monkeypatch, tmp_path, bytes_of(model) // 2)
    with torch.no_grad():
        streamed(ids)
    lender(streamed).ring.stop()  # type: ignore[union-attr]
    ended = {number for what, stream, number in cuda.log if what == "record" and stream is not cuda.computes}
    awaited = {number for what, _, number in cuda.log if what == "synchronize"}
    assert ended - awaited <= {max(ended)}  # the last one may be under way
    assert awaited <= ended


def test_what_the_host_keeps_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = saved(tmp_path)
    streamed, _ = on_device(monkeypatch, tmp_path, bytes_of(model) // 2, 1 << 30)
    weights = lender(streamed)
    with torch.no_grad():
        for _ in range(3):
            streamed(ids)
    read = weights.shards.read_bytes
    with torch.no_grad():
        streamed(ids)
    rows = [one.size for key, one in enumerate(weights.stored) if key in weights.plan.by_rows]
    assert weights.shards.read_bytes - read <= sum(rows)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    model, _ = saved(tmp_path)
    with torch.device("meta"):
        twin = Stack()
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="no CUDA device"):
            djinn_fx.load_offloaded(twin, tmp_path, budget="1GB", device="cuda:0")
    for wrong in ("tpu", "meta"):
        with pytest.raises(SettingsError, match="no device for offloaded weights"):
            djinn_fx.load_offloaded(twin, tmp_path, budget="1GB", device=wrong)
    assert bytes_of(model)
