"""Faults of workers on a real Ray of this machine, one after the other, in a process that may be killed over them.

    python -m tests.exam.worker_faults SEED COUNT [NAME …]

prints a line of JSON for each fault: its name, what became of the calls after it, and the seconds that took. Each fault
meets a model whose layers are on two workers and which writes a cache there. Whatever happens, an answer that comes is
eager's, or an error says what is wrong; then the workers are whole again for the next fault.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from djinn_fx.errors import DjinnError
from djinn_fx.remote.workers import client as clients
from djinn_fx.remote.workers import guardian
from djinn_fx.remote.workers import pool as pools

#: How long a worker may be silent here (on a busy machine one that is well was for 2 s), and what any call may take
#: after a fault, with all that is planned anew.
SILENT_S, BOUND_S = 4.0, 40.0
WIDTH, ROWS, LARGE = 64, 8, 200_000


class Model(torch.nn.Module):
    """Layers on two workers, and a cache that each call writes a row of."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.second = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("cache", torch.zeros(16, WIDTH))

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """A row goes into the cache, and all of it into the answer."""
        for layer in self.first:
            x = torch.relu(layer(x))
        self.cache.index_copy_(0, at, x[:1])
        for layer in self.second:
            x = torch.relu(layer(x + self.cache.sum(0)))
        return x


class Session:
    """A model over two workers, beside one in this process."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.there, self.here = Model().eval(), Model().eval()
        self.here.load_state_dict(self.there.state_dict())
        self._calls = 0
        self._run = self._compiled()
        assert self.call() == "right"

    def _compiled(self) -> Any:
        torch._dynamo.reset()
        options = {
            "workers": "local:2",
            "worker_timeout": f"{SILENT_S:g}s",
            "engine": "eager",
            "pin": {"first": "worker:0", "second": "worker:1"},
        }
        return torch.compile(self.there, backend="djinn", options=options, dynamic=False)

    @property
    def pool(self) -> pools.Pool:
        """The workers."""
        (found,) = pools._POOLS.values()
        return found

    def pid(self, name: str) -> int:
        """A worker's process."""
        return self.pool.workers[name].health().pid

    def call(self, rows: int = ROWS) -> str:
        """``"right"``, or the text of an error.

        Raises:
            AssertionError: a wrong answer, or the cache is another than it should be.
        """
        self._calls += 1
        x = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(self._calls))
        at = torch.tensor([self._calls % 16])
        with torch.no_grad():
            try:
                found = self._run(x, at)
            except DjinnError as error:
                assert torch.equal(self.there.cache, self.here.cache), "a call that failed wrote into the cache"
                return f"{type(error).__name__}: {error}"
            wanted = self.here(x, at)
        assert torch.equal(self.there.cache, self.here.cache), "the cache is another"
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        return "right"

    def whole(self) -> None:
        """Two workers again, and the model over both."""
        pool = self.pool
        for name in pool.lost():
            if pool.cluster.alive:  # else another Ray is started
                pool.restart(name)
        self._run = self._compiled()
        for _ in range(2):
            assert self.call() == "right"


# What goes wrong. Each gives what the calls after it gave.

Fault = Callable[[Session, random.Random], list[str]]


def _name(rng: random.Random) -> str:
    return rng.choice(("worker:0", "worker:1"))


def killed_before(session: Session, rng: random.Random) -> list[str]:
    """A worker is dead when a call begins."""
    os.kill(session.pid(_name(rng)), signal.SIGKILL)
    time.sleep(rng.choice((0.0, 0.0, 0.05, 0.5)))
    return [session.call(), session.call()]


def killed_during(session: Session, rng: random.Random) -> list[str]:
    """A worker dies while calls are made."""
    pid = session.pid(_name(rng))
    timer = threading.Timer(rng.uniform(0.0, 0.02), os.kill, (pid, signal.SIGKILL))
    timer.start()
    found = [session.call() for _ in range(6)]
    timer.join()
    return [*found, session.call()]


def killed_both(session: Session, rng: random.Random) -> list[str]:
    """Both workers die while calls are made: what is left is this process."""
    for name in ("worker:0", "worker:1"):
        threading.Timer(rng.uniform(0.0, 0.02), os.kill, (session.pid(name), signal.SIGKILL)).start()
    return [session.call() for _ in range(6)]


def killed_after(session: Session, rng: random.Random) -> list[str]:
    """A worker dies after an answer came, and the next one while that is made good."""
    found = [session.call()]
    os.kill(session.pid(_name(rng)), signal.SIGTERM if rng.random() < 0.3 else signal.SIGKILL)
    return [*found, session.call(), session.call()]


def frozen(session: Session, rng: random.Random) -> list[str]:
    """A worker stops and gives no sign of life."""
    pid = session.pid(_name(rng))
    timer = threading.Timer(rng.choice((0.0, rng.uniform(0.0, 0.02))), os.kill, (pid, signal.SIGSTOP))
    timer.start()
    timer.join()
    return [session.call(), session.call()]


def frozen_a_while(session: Session, rng: random.Random) -> list[str]:
    """A worker stops, and goes on before it counts as lost."""
    pid = session.pid(_name(rng))
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(rng.uniform(0.1, 0.4) * SILENT_S, os.kill, (pid, signal.SIGCONT))
    timer.start()
    found = [session.call()]
    timer.join()
    lost = {name: session.pool.workers[name].lost for name in session.pool.lost()}
    assert not lost, f"a worker that went on in time was given up: {lost}"
    return [*found, session.call()]


def memory_full(session: Session, rng: random.Random) -> list[str]:
    """A worker's process may have no more memory than it has; a call needs more."""
    pid = session.pid(_name(rng))
    with open(f"/proc/{pid}/statm") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (taken + 8 * 2**20, before[1]))
    found = [session.call(LARGE)]
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, before)
    return [*found, session.call(), session.call()]


def _end_of_ray(process: str) -> Fault:
    """One of Ray's own processes is killed: what is left is this process, and a Ray that is started anew."""

    def fault(session: Session, rng: random.Random) -> list[str]:
        for pid in guardian.marked(session.pool.cluster._mark):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                if process in file.read().decode(errors="replace"):
                    timer = threading.Timer(rng.choice((0.0, 0.01)), os.kill, (pid, signal.SIGKILL))
                    timer.start()
                    timer.join()
        return [session.call() for _ in range(4)]

    return fault


@contextlib.contextmanager
def _once(name: str, change: Callable[[Any], Any], skip: int) -> Iterator[None]:
    """One of the frames that pass through the client is another."""
    real, left = getattr(clients, name), [skip]

    def changed(first: Any, *args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == -1 and name == "decode":
            return real(change(_whole(first)), *args, **more)
        made = real(first, *args, **more)
        return change(_whole(made)) if left[0] == -1 and name == "carried" else made

    setattr(clients, name, changed)
    try:
        yield
    finally:
        setattr(clients, name, real)


def _whole(frame: Any) -> np.ndarray:
    """A frame in one array that may be written."""
    pieces = frame if isinstance(frame, list) else [frame]
    return np.concatenate([np.frombuffer(one, dtype=np.uint8) for one in pieces])


def half_a_message(session: Session, rng: random.Random) -> list[str]:
    """A frame is cut somewhere, on either way."""
    part = rng.random()
    with _once(rng.choice(("carried", "decode")), lambda raw: raw[: int(len(raw) * part)], rng.randrange(2)):
        found = [session.call(), session.call()]
    return [*found, session.call()]


def flipped(session: Session, rng: random.Random) -> list[str]:
    """A bit of a header is another, on either way."""

    def change(raw: Any) -> Any:
        size = struct.unpack_from("<I", raw, 12)[0]
        raw[rng.randrange(56 + size)] ^= 1 << rng.randrange(8)
        return raw

    with _once(rng.choice(("carried", "decode")), change, rng.randrange(2)):
        found = [session.call(), session.call()]
    return [*found, session.call()]


def another_version(session: Session, rng: random.Random) -> list[str]:
    """The other side speaks a newer version of frames."""

    def change(raw: Any) -> Any:
        raw[8] += 1
        return raw

    with _once(rng.choice(("carried", "decode")), change, 0):
        found = [session.call()]
    assert "version" in found[0], found
    return [*found, session.call()]


def nothing(session: Session, rng: random.Random) -> list[str]:
    """A call like any other."""
    return [session.call()]


FAULTS: dict[str, tuple[Fault, int]] = {
    "nothing": (nothing, 0),
    "killed before": (killed_before, 3),
    "killed during": (killed_during, 6),
    "killed after": (killed_after, 3),
    "both killed": (killed_both, 2),
    "frozen": (frozen, 3),
    "frozen a while": (frozen_a_while, 2),
    "memory full": (memory_full, 2),
    "half a message": (half_a_message, 4),
    "flipped": (flipped, 4),
    "another version": (another_version, 1),
    "raylet killed": (_end_of_ray("raylet/raylet"), 1),
    "gcs killed": (_end_of_ray("gcs_server"), 1),
    "guardian killed": (_end_of_ray("workers.guardian:main"), 1),
}


def main(seed: int, count: int, names: list[str]) -> None:
    """See the module's text."""
    session = Session(seed)
    chosen = names or list(FAULTS)
    weights = [FAULTS[name][1] or bool(names) for name in chosen]
    for number in range(count):
        rng = random.Random(seed * 10_000 + number)
        name = rng.choices(chosen, weights)[0]
        began = time.monotonic()
        found = FAULTS[name][0](session, rng)
        seconds = time.monotonic() - began
        # Whatever came before, the last call is one that nothing is wrong with any more.
        assert found[-1] == "right", (name, found)
        assert seconds < BOUND_S, (name, seconds, found)
        if name != "nothing":
            session.whole()
        print(json.dumps({"fault": name, "found": found, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
