"""Frames one after the other over a file and a socket: half a frame is an error, the end between two is none."""

from __future__ import annotations

import io
import socket
import threading
from pathlib import Path

import pytest
import torch

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.channel import read, receive, send, write
from djinn_fx.remote.wire.frame import encode
from djinn_fx.remote.wire.limits import Limits
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.runtime.devices.links import Bucket
from djinn_fx.settings.devices import DeclaredLink

VALUES = [torch.randn(3, 4), torch.randn(300_000), torch.empty(0), torch.randn(2).bfloat16()]


def frames() -> list[list[bytes | memoryview]]:
    return [encode("value", {"number": number}, {"x": payload_of(one)}) for number, one in enumerate(VALUES)]


def test_over_a_file(tmp_path: Path) -> None:
    with (tmp_path / "frames").open("wb") as into:
        for pieces in frames():
            write(into, pieces)
    with (tmp_path / "frames").open("rb") as source:
        for number, value in enumerate(VALUES):
            found = read(source)
            assert found is not None
            assert found.fields == {"number": number}
            assert torch.equal(found.tensors["x"], value)
            assert not found.readonly
        assert read(source) is None


def test_over_a_socket() -> None:
    here, there = socket.socketpair()

    def all_of_them() -> None:
        with here:
            for pieces in frames():
                send(here, pieces)

    with here, there:
        here.settimeout(20)
        there.settimeout(20)
        sender = threading.Thread(target=all_of_them)
        sender.start()
        for value in VALUES:
            found = receive(there)
            assert found is not None
            assert torch.equal(found.tensors["x"], value)
        assert receive(there) is None
        sender.join()


def test_over_a_declared_link_frames_come_when_their_bytes_have_passed() -> None:
    here, there = socket.socketpair()
    now, woken = [0.0], []

    def sleep(seconds: float) -> None:
        now[0] += max(seconds, 1e-6)
        woken.append(now[0])

    declared = DeclaredLink(ends=("a", "b"), bandwidth_bytes_s=1e6, latency_s=0.5)
    link = Bucket(declared, clock=lambda: now[0], sleep=sleep)
    due, passed = 0.0, 0
    with here, there:
        for pieces in (frames()[0], frames()[3], frames()[0]):
            passed = sum(map(len, pieces))
            due = now[0] + passed / 1e6 + 0.5
            send(here, pieces, link=link)
            assert now[0] == pytest.approx(due, abs=2e-6)
            assert receive(there) is not None
    assert len(woken) > 3


def test_half_a_frame_is_an_error() -> None:
    whole = b"".join(bytes(piece) for piece in frames()[0])
    for length in (1, 55, 60, len(whole) - 1):
        with pytest.raises(EngineError, match="cut short"):
            read(io.BytesIO(whole[:length]))
    here, there = socket.socketpair()
    with here, there:
        here.sendall(whole[:-9])
        here.close()
        with pytest.raises(EngineError, match="cut short"):
            receive(there)


def test_nothing_is_read_of_a_frame_that_is_too_large() -> None:
    source = io.BytesIO(b"".join(bytes(piece) for piece in frames()[1]))
    with pytest.raises(EngineError, match="are allowed"):
        read(source, limits=Limits(payload_bytes=1000))
    assert source.tell() == 56


def test_a_peer_that_is_silent_is_not_waited_for_longer_than_the_sockets_timeout() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.settimeout(0.01)
        here.sendall(bytes(frames()[0][0])[:10])
        with pytest.raises(TimeoutError):
            receive(there)
