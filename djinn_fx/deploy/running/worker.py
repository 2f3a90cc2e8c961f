"""A process that hosts the models of one device, or one gang: it loads them and runs a node at a time.

It is told by frames (:mod:`djinn_fx.remote.wire.frame`) over a socket that it inherits, and ends when that closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any

import torch

from djinn_fx.deploy.running.values import put_together, taken_apart
from djinn_fx.deploy.serving.entry import Entry, load_entry
from djinn_fx.errors import useful_line
from djinn_fx.remote.wire import channel
from djinn_fx.remote.wire.frame import Frame, encode
from djinn_fx.remote.wire.payload import payload_of

_PR_SET_PDEATHSIG = 1


def main(given: Mapping[str, Any]) -> None:
    """Load and serve until the socket closes.

    Args:
        given: ``channel`` (a file descriptor), ``parent`` (a process id), ``cores`` (which it may use), ``threads``,
            ``models`` (for each name its entry), ``compiled``.
    """
    _settle(given)
    peer = socket.socket(fileno=int(given["channel"]))
    hosted: dict[str, Entry] = {}
    begun = time.monotonic()
    for name, text in given["models"].items():
        torch.manual_seed(0)  # copies of a model that makes its weights up are alike
        try:
            hosted[name] = load_entry(text)
        except Exception as error:  # noqa: BLE001 - whoever started this says so
            channel.send(peer, encode("failed", {"why": f"model {name!r}: {useful_line(error)}"}))
            return
        if given["compiled"]:
            hosted[name].module.compile(backend="djinn")
    channel.send(peer, encode("ready", {"load_s": time.monotonic() - begun}))
    with contextlib.suppress(OSError):  # the other side has gone
        while (frame := channel.receive(peer, verify=False)) is not None:
            channel.send(peer, _answer(frame, hosted))


def _answer(frame: Frame, hosted: Mapping[str, Entry]) -> list[bytes | memoryview]:
    """Run a node; what came of it, as a frame."""
    fields = frame.fields
    given = list(frame.tensors.values())
    eager = torch.compiler.set_stance("force_eager") if frame.kind == "check" else contextlib.nullcontext()
    try:
        results = {name: put_together(tree, given) for name, tree in fields["results"]}
        with eager:
            found = hosted[fields["model"]].answer(fields["data"], results)
        tensors: list[torch.Tensor] = []
        tree = taken_apart(found, tensors)
        sent = {str(place): payload_of(one) for place, one in enumerate(tensors)}
        return encode("done", {"tree": tree}, sent, digests=False)
    except Exception as error:  # noqa: BLE001 - this request ends with it, the next one is answered
        return encode("error", {"why": useful_line(error)})


def _settle(given: Mapping[str, Any]) -> None:
    """Keep to the cores, and go when the parent goes."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the socket's end is enough, a node later
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != given["parent"]:
        raise SystemExit(1)  # it went before the kernel knew
    if given["cores"]:
        with contextlib.suppress(OSError, AttributeError):  # not every system can, or lets us
            os.sched_setaffinity(0, given["cores"])
    torch.set_num_threads(int(given["threads"]))
