"""What is given to the build pool and what comes back. Plain data; no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

#: The builders a child process can be started for: "module:function". The function takes the request and its blobs
#: and returns a header (a JSON object) and the artefact's bytes; it raises :class:`BuildError`. A child imports only
#: that module, so one that needs no torch starts in a twentieth of a second.
WORKERS: dict[str, str] = {
    "inductor-region": "djinn_fx.engines.inductor.worker:build",
    "tensorrt-plan": "djinn_fx.engines.tensorrt.building.worker:build",
    "tensorrt-checked": "djinn_fx.engines.tensorrt.building.builder:build",
}


class BuildError(Exception):
    """A builder says why it cannot build what it was asked to.

    Args:
        detail: one sentence for the user.
        stage: ``support``, ``convert``, ``parse``, ``build``, ``load`` or ``run``.
        node: the graph node it is about, if one is known.
    """

    def __init__(self, detail: str, *, stage: str, node: str = "") -> None:
        super().__init__(detail)
        self.detail, self.stage, self.node = detail, stage, node


class BusyElsewhere(Exception):
    """Another process builds this key now; raised by a job's guard. The job waits and is tried again."""


class FailureKind(str, Enum):
    """How a build ended that gave no artefact."""

    REFUSED = "refused"  # the builder raised BuildError, or any other exception
    CRASHED = "crashed"  # the child died: a segfault, an abort, a signal
    TIMED_OUT = "timed-out"
    OUT_OF_MEMORY = "out-of-memory"
    NOT_ADMITTED = "not-admitted"  # it would never fit into the memory limit
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class BuildDone:
    """An artefact.

    Attributes:
        header: JSON object, see ``Artefact.header``.
        payload: its bytes.
        seconds: the build took, in the child.
        peak_bytes: largest resident memory of the child and what it started; 0 if not known.
    """

    header: Mapping[str, Any]
    payload: bytes
    seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class BuildFailed:
    """Why there is no artefact."""

    kind: FailureKind
    detail: str
    stage: str = "build"
    node: str = ""
    seconds: float = 0.0


BuildOutcome = BuildDone | BuildFailed


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """One build.

    Attributes:
        key: a job with the key of one that is queued or running joins it.
        worker: a name in :data:`WORKERS`.
        request: a JSON object for the builder.
        blobs: bytes that go with it.
        label: for messages.
        memory_bytes: predicted peak of the build; it starts when that much is free under the pool's limit.
        timeout_s: it is killed after this many seconds of running. Time in which it could have run but others had the
            processor does not count, up to ten times as long.
        guard: entered before the build starts and left after ``on_done``: holds whatever lock makes this process the
            only builder. Yields an artefact if there is one after all (no child is started then), else None. May
            raise :class:`BusyElsewhere`.
    """

    key: str
    worker: str
    request: Mapping[str, Any]
    blobs: tuple[bytes, ...] = ()
    label: str = ""
    memory_bytes: int = 0
    timeout_s: float = 600.0
    guard: Callable[[], AbstractContextManager[BuildDone | None]] = field(default=nullcontext)


@dataclass(frozen=True, kw_only=True)
class PoolCounters:
    """What the pool did in this process."""

    submitted: int = 0
    joined: int = 0  # submitted with a key that was queued or running
    queued: int = 0  # now
    building: int = 0  # now
    built: int = 0
    refused: int = 0
    crashed: int = 0
    timed_out: int = 0
    out_of_memory: int = 0
    not_admitted: int = 0
    cancelled: int = 0
    children_started: int = 0
