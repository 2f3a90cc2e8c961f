"""The client's handle on one worker: requests with a deadline, signs of life, and what went over the wire."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from djinn_fx.errors import DeviceLostError, EngineError, useful_line
from djinn_fx.remote.wire.carried import Carried, carried, size_of
from djinn_fx.remote.wire.choice import Packer
from djinn_fx.remote.wire.frame import Frame, decode, encode
from djinn_fx.remote.wire.payload import Payload
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.cluster import imported
from djinn_fx.runtime.devices.links import Bucket
from djinn_fx.settings.devices import DeclaredLink
from djinn_fx.threads import new_lock
from djinn_fx.units import format_bytes

#: A call may take this many times what a worker may be silent: it is alive, and a first call compiles.
PATIENCE = 20
#: Seconds between two looks at whether a worker that is waited for is alive.
BEAT_S = 2.0
#: The namespace that a worker's name on its Ray is in.
NAMESPACE = "djinn_fx"
#: Where a worker answers beside its work.
HEALTH = "health"

Pieces = Sequence[bytes | memoryview]


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """A worker now.

    Attributes:
        name: such as ``"worker:0"``.
        incarnation: higher than that of any worker of this name before.
        alive: whether it answered the last time it was asked.
        node: its machine's name; ``pid``: its process there.
        threads: that it computes with.
        busy_s: seconds that it has been at work on a request.
        weight_bytes: what weights take there; ``state_bytes``: what graphs write and it keeps, such as caches of keys
            and values; ``copied_bytes``: what engines keep of the weights besides; ``memory_bytes``: what all of it
            may take.
        resident_bytes: memory of its process.
        graphs: how many it has compiled.
        sent: bytes of frames that went to it, by kind; ``received``: that came from it. As this process counts them;
            of a worker of which this process is no client, as the worker does, other workers' results with them.
        unpacked_bytes: of tensors that went packed from here to it or back, as they are; ``packed_bytes``: as sent.
        why: what it was lost for, if it was.
    """

    name: str
    incarnation: int
    alive: bool
    node: str = ""
    pid: int = 0
    threads: int = 0
    busy_s: float = 0.0
    weight_bytes: int = 0
    state_bytes: int = 0
    copied_bytes: int = 0
    memory_bytes: int = 0
    resident_bytes: int = 0
    graphs: int = 0
    sent: Mapping[str, int] = field(default_factory=dict)
    received: Mapping[str, int] = field(default_factory=dict)
    unpacked_bytes: int = 0
    packed_bytes: int = 0
    why: str = ""

    def __str__(self) -> str:
        if not self.alive:
            return f"{self.name} is not alive: {self.why}"
        return (
            f"{self.name} on {self.node}: {format_bytes(self.weight_bytes)} of weights, "
            f"{format_bytes(self.state_bytes)} of state; {format_bytes(sum(self.sent.values()))} went there, "
            f"{format_bytes(sum(self.received.values()))} came back"
        )


@dataclass(frozen=True, kw_only=True)
class Over:
    """A way to a worker and back, for whoever packs what goes there.

    Attributes:
        latency_s: to the first byte.
        bandwidth_bytes_s: from then on.
        codecs: that all who read what is packed know.
    """

    latency_s: float
    bandwidth_bytes_s: float
    codecs: tuple[str, ...]


class Waiting:
    """A request under way.

    Args:
        worker: that it was sent to.
        ref: Ray's name for the answer.
        passed: for what other workers want of it.
    """

    def __init__(self, worker: WorkerClient, ref: Any, passed: Any = None) -> None:
        self.worker, self.ref, self.passed = worker, ref, passed

    def wait(self, most_s: float | None = None) -> list[Frame]:
        """The answers.

        Args:
            most_s: seconds after which the worker counts as lost, though it gives signs of life; None: its usual.

        Raises:
            DeviceLostError: the worker is dead, gave no sign of life for too long, or took longer than that.
            EngineError: it could not do what it was asked.
        """
        return self.worker._answers(self, most_s)


class WorkerClient:
    """A worker as this process sees it. Any thread may use it.

    Args:
        name: among devices.
        actor: Ray's handle.
        incarnation: of the worker.
        timeout_s: how long it may be silent.
        link: a declared one, over which its answers come.
    """

    def __init__(
        self, name: str, actor: Any, incarnation: int, timeout_s: float, *, link: DeclaredLink | None = None
    ) -> None:
        self._link = Bucket(link) if link is not None else None
        self.name, self.incarnation, self.timeout_s = name, incarnation, timeout_s
        self.actor = actor
        self._lost = ""
        self._lock = new_lock()
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.codecs: tuple[str, ...] = ()
        self.over: Over | None = None
        self._packer: Packer | None = None
        self._unpacked, self._packed = 0, 0
        self._last: WorkerStatus | None = None

    @property
    def lost(self) -> str:
        """Why it is lost; empty while it is not."""
        return self._lost

    def lose(self, why: str) -> DeviceLostError:
        """Count it as lost, and end its process; the error to raise."""
        with self._lock:
            first, self._lost = not self._lost, self._lost or why
        if first:
            with contextlib.suppress(Exception):  # it is dead already, or the whole Ray is
                imported().kill(self.actor, no_restart=True)
        return DeviceLostError(f"{self.name} is lost: {self._lost}")

    def packs(self, over: Over) -> None:
        """Pack tensors from now on, there and back, where that is sooner there.

        Raises:
            DeviceLostError: the worker is lost.
            EngineError: it does not know of that.
        """
        told = {"latency_s": over.latency_s, "bandwidth_bytes_s": over.bandwidth_bytes_s, "codecs": over.codecs}
        self.ask([(requests.LINK, encode(requests.LINK, told))]).wait()
        packer = Packer(lambda nbytes: over.latency_s + nbytes / over.bandwidth_bytes_s, over.codecs)
        if self._packer is not None:
            packer.before, packer.after = self._packer.before, self._packer.after
        self._packer, self.over = packer, over

    def packed(self, payloads: Mapping[str, Payload]) -> Mapping[str, Payload]:
        """Tensors as they are to be sent there."""
        packer = self._packer
        return payloads if packer is None else {name: packer.pack(one) for name, one in payloads.items()}

    # Requests

    def ask(self, frames: Sequence[tuple[str, Pieces]]) -> Waiting:
        """Send requests, which are answered one after the other. Returns at once.

        Args:
            frames: each with the kind it is counted as.

        Raises:
            DeviceLostError: the worker is lost.
        """
        self.check()
        return self._sent(lambda sent: Waiting(self, self.actor.take.remote(*sent)), frames)

    def relay(self, frame: Pieces, upstream: Sequence[Any]) -> Waiting:
        """Send a call whose inputs other workers make, or whose outputs others want. Returns at once.

        Args:
            frame: the call.
            upstream: ``passed`` of the requests that make the inputs.

        Raises:
            DeviceLostError: the worker is lost.
        """
        self.check()

        def send(sent: Sequence[Carried]) -> Waiting:
            ref, passed = self.actor.relay.remote(sent[0], *upstream)
            return Waiting(self, ref, passed)

        return self._sent(send, [(requests.CALL, frame)])

    def health(self, timeout_s: float | None = None) -> WorkerStatus:
        """Ask for a sign of life, which comes beside what the worker does. Raises nothing: the status says it."""
        if not self._lost:
            ray = imported()
            try:
                text = ray.get(self.sign_of_life(), timeout=self.timeout_s if timeout_s is None else timeout_s)
                self.note(json.loads(text))
            except Exception as error:  # noqa: BLE001 - told in the status
                self.lose(_why(error, self.timeout_s))
        return self.status()

    def sign_of_life(self) -> Any:
        """Ask for one; Ray's name for the answer."""
        return self.actor.health.remote()

    def status(self) -> WorkerStatus:
        """As it was known last; asks nothing."""
        last = self._last
        alive = not self._lost
        if last is None:
            return WorkerStatus(name=self.name, incarnation=self.incarnation, alive=alive, why=self._lost)
        counted: dict[str, Any] = {"sent": dict(self.sent), "received": dict(self.received)} if self.sent else {}
        packer = self._packer
        if packer is not None:
            counted |= {"unpacked_bytes": self._unpacked + packer.before, "packed_bytes": self._packed + packer.after}
        return WorkerStatus(**{**vars(last), **counted, "alive": alive, "why": self._lost})

    def note(self, told: dict[str, Any]) -> None:
        """Keep a sign of life that came."""
        self.codecs = tuple(told.get("codecs", ()))
        self._last = self._status(told)

    def _status(self, told: dict[str, Any]) -> WorkerStatus:
        names = (
            "pid", "threads", "weight_bytes", "state_bytes", "copied_bytes", "memory_bytes", "resident_bytes", "graphs"
        )  # fmt: skip
        known: dict[str, Any] = {name: int(told[name]) for name in names}
        known |= {"node": str(told["node"]), "busy_s": float(told["busy_s"])}
        known |= {"sent": told["took"], "received": told["gave"]}
        return WorkerStatus(name=self.name, incarnation=self.incarnation, alive=True, **known)

    def check(self) -> None:
        """Raise what a lost worker is told by.

        Raises:
            DeviceLostError: it is lost.
        """
        if self._lost:
            raise DeviceLostError(f"{self.name} is lost: {self._lost}")

    def _sent(self, send: Any, frames: Sequence[tuple[str, Pieces]]) -> Waiting:
        sent = [carried(pieces) for _, pieces in frames]
        try:
            made: Waiting = send(sent)
        except Exception as error:
            raise self.failed(error) from error
        for (kind, _), one in zip(frames, sent, strict=True):
            self.count(kind, size_of(one))
        return made

    def count(self, kind: str, nbytes: int) -> None:
        """A frame went there."""
        with self._lock:
            self.sent[kind] += nbytes

    def failed(self, error: BaseException) -> DeviceLostError:
        """What to raise where Ray says that a request came to nothing: the worker counts as lost."""
        return self.lose(_why(error, self.timeout_s))

    # Answers

    def _answers(self, waiting: Waiting, most_s: float | None) -> list[Frame]:
        ray = imported()
        begun = time.monotonic()
        until = begun + (most_s if most_s is not None else PATIENCE * self.timeout_s)
        asked, silent_s = None, 0.0
        while True:
            self.check()
            now = time.monotonic()
            pause = min(BEAT_S, self.timeout_s / 4, max(0.0, until - now))
            try:
                try:
                    return self.decoded(ray.get(waiting.ref, timeout=pause))
                except ray.exceptions.GetTimeoutError:
                    if time.monotonic() >= until:
                        raise self.lose(f"a request is not done after {time.monotonic() - begun:.0f} s") from None
                # Time in which this process itself did not run, being stopped or short of a processor, is no silence.
                silent_s += min(pause, time.monotonic() - now)
                asked, silent_s = self._beat(asked, silent_s)
            except EngineError:
                raise
            except Exception as error:
                raise self.failed(error) from error

    def _beat(self, asked: Any, silent_s: float) -> tuple[Any, float]:
        """Ask for a sign of life, or look whether the one that was asked for came; which, and how long it did not."""
        if asked is not None:
            ray = imported()
            ready, _ = ray.wait([asked], timeout=0)
            if not ready:
                if silent_s > self.timeout_s:
                    raise self.lose(f"no sign of life for {self.timeout_s:g} s")
                return asked, silent_s
            self.note(json.loads(ray.get(asked)))
        return self.sign_of_life(), 0.0

    def decoded(self, answers: Any) -> list[Frame]:
        """The frames of an answer, counted.

        Raises:
            EngineError: one says that the worker could not do what it was asked, or is none.
        """
        came = answers if isinstance(answers, list) else [answers]
        if self._link is not None:
            self._link.wait(self._link.book(sum(map(size_of, came))))
        frames = []
        for one in came:
            try:
                frame = decode(one, verify=False)
            except EngineError as error:
                raise EngineError(f"{self.name} sends what is no answer: {error}") from error
            with self._lock:
                self.received[frame.kind] += size_of(one)
                self._unpacked, self._packed = self._unpacked + frame.packed[0], self._packed + frame.packed[1]
            frames.append(frame)
        for frame in frames:
            if frame.kind == requests.FAILED:
                raise self._error(frame.fields)
        return frames

    def _error(self, fields: Mapping[str, Any]) -> EngineError:
        text = f"{self.name}: {fields.get('text', 'it failed')}"
        if fields.get("memory"):
            return EngineError(f"{text}; give it more memory, or a smaller part of the model (worker_memory)")
        return EngineError(text)


def _why(error: BaseException, timeout_s: float) -> str:
    """What became of a worker, by what Ray says."""
    kind = type(error).__name__
    if kind in ("GetTimeoutError", "RayChannelTimeoutError"):
        return f"no sign of life for {timeout_s:g} s"
    if kind == "OutOfMemoryError":
        return "its machine has no memory left, and Ray ended it"
    if kind in ("ActorDiedError", "RayActorError", "ActorUnavailableError"):
        return f"its process is dead ({useful_line(error)[:300]})"
    return useful_line(error)[:300]


_NEXT = threading.Lock()
_LAST = [0]


def next_incarnation() -> int:
    """Higher than any before, in this process and in earlier ones of this machine."""
    with _NEXT:
        _LAST[0] = max(time.time_ns(), _LAST[0] + 1)
        return _LAST[0]
