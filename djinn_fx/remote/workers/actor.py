"""The process of a worker: a Ray actor around :class:`djinn_fx.remote.workers.serving.Serving`."""

from __future__ import annotations

import functools
import importlib
import json
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from djinn_fx.hardware.workers import part_bytes
from djinn_fx.pool.limits import available_bytes, total_bytes
from djinn_fx.remote.wire.carried import size_of
from djinn_fx.remote.workers.accounts import Accounts
from djinn_fx.settings.devices import DeclaredLink


class WorkerActor:
    """One worker.

    Args:
        text: a JSON object: ``build`` ("module:function", which compiles graphs), ``name``, ``threads``,
            ``memory_bytes``, ``incarnation``, ``sharing`` (how many workers share the machine, and without
            ``memory_bytes`` its memory), ``others`` (whether other processes' workers may be there too), ``link`` (of
            a declared link, over which all comes that comes here: ``bandwidth_bytes_s`` and ``latency_s``).
    """

    def __init__(self, text: str) -> None:
        import torch

        from djinn_fx.remote.workers.serving import Serving
        from djinn_fx.runtime.devices.links import Bucket

        given = json.loads(text)
        if given["threads"]:
            torch.set_num_threads(int(given["threads"]))
        module, _, name = str(given["build"]).partition(":")
        build = getattr(importlib.import_module(module), name)
        memory = given["memory_bytes"] or part_bytes((total_bytes() or 0) // int(given["sharing"])) or None
        bound = functools.partial(_bound, memory) if memory and given["others"] else memory
        self._serving = Serving(build, int(given["incarnation"]), memory_bytes=bound)
        self._link = Bucket(declared(given["link"])) if given["link"] else None
        self._identity = {"name": str(given["name"]), "threads": int(given["threads"]), "node": platform.node()}
        self._accounts = Accounts()
        self._lock = threading.Lock()
        self._busy_since: float | None = None

    def take(self, *frames: Any) -> Any:
        """Answer requests; see :meth:`Serving.take`. One answer comes alone, several in a list."""
        self._busy_since = time.monotonic()
        try:
            self._come(frames)
            with self._lock:
                self._accounts.came(frames)
                answers = list(self._serving.take(frames))
                self._accounts.leave(answers)
                return answers[0] if len(answers) == 1 else answers
        finally:
            self._busy_since = None

    def echo(self, array: Any) -> Any:
        """An array's first byte: what Ray alone takes, for benches."""
        return int(array[0])

    def relay(self, frame: Any, *upstream: Any) -> tuple[Any, Any]:
        """Answer a call; see :meth:`Serving.relay`. The two results are objects of their own."""
        self._busy_since = time.monotonic()
        try:
            self._come((frame, *upstream))
            with self._lock:
                self._accounts.came((frame, *upstream))
                answers = self._serving.relay(frame, upstream)
                self._accounts.leave(answers)
                return answers
        finally:
            self._busy_since = None

    def _come(self, frames: Sequence[Any]) -> None:
        """Wait until these have come over the declared link."""
        if self._link is not None:
            self._link.wait(self._link.book(sum(map(size_of, frames))))

    def health(self) -> str:
        """A sign of life: a JSON object with the process, what it holds, and for how long it has been at work."""
        since = self._busy_since
        found = {
            **self._serving.status(),
            **self._identity,
            **self._accounts.told(),
            "pid": os.getpid(),
            "resident_bytes": _resident_bytes(),
            "busy_s": time.monotonic() - since if since is not None else 0.0,
        }
        return json.dumps(found)


def _bound(most: int, held: int) -> int:
    """What a worker may hold where others may be that it knows nothing of: what it does, and what is free besides."""
    free = available_bytes()
    return most if free is None else min(most, held + part_bytes(free))


def declared(link: Mapping[str, float]) -> DeclaredLink:
    """A link as it was told."""
    return DeclaredLink(
        ends=("", ""), bandwidth_bytes_s=float(link["bandwidth_bytes_s"]), latency_s=float(link["latency_s"])
    )


def _resident_bytes() -> int:
    """What the operating system counts for this process; 0 where it does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
