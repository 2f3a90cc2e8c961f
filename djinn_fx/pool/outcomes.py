"""What a child's reply, or its death, means for the job. No torch."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from djinn_fx.pool.jobs import BuildDone, BuildFailed, BuildJob, BuildOutcome, FailureKind
from djinn_fx.pool.wire import Message
from djinn_fx.units import format_bytes

#: Characters of a child's output quoted in a failure.
_QUOTED = 1000


@dataclass(frozen=True, kw_only=True)
class Death:
    """How a build ended that gave no reply.

    Attributes:
        cancelled: it was killed because nobody wants it.
        timed_out: it was killed because its time was over.
        grown_bytes: memory it was killed for; 0 if it was not.
        problem: what was wrong with what it sent; empty if nothing was.
        last: the warden's last event: ``status`` of the worker, ``tail`` of its output. Empty if there was none.
        oom_kills: how many processes the system killed for want of memory meanwhile.
    """

    cancelled: bool
    timed_out: bool
    grown_bytes: int
    problem: str
    last: Mapping[str, Any]
    oom_kills: int


def problem_of(reply: Message, token: str) -> str:
    """Why this is not a reply to the request with that token; empty if it is one."""
    header = reply.header
    if header.get("token") != token:
        return "it replied to another request"
    good = isinstance(header.get("header"), dict) and len(reply.blobs) == 1
    if not (good if header.get("ok") is True else isinstance(header.get("detail"), str)):
        return "its reply lacks what a reply needs"
    return ""


def outcome_of(reply: Message, usage: Mapping[str, Any], seconds: float) -> BuildOutcome:
    """What a reply without a problem says.

    Args:
        reply: the worker's.
        usage: the warden's account of the build.
        seconds: it took, as the pool saw it.
    """
    header = reply.header
    if header.get("ok") is True:
        own = header.get("seconds")
        return BuildDone(
            header=header["header"],
            payload=reply.blobs[0],
            seconds=float(own) if isinstance(own, (int, float)) else seconds,
            peak_bytes=int(usage.get("peak", 0)),
        )
    return BuildFailed(
        kind=FailureKind.OUT_OF_MEMORY if header.get("memory") is True else FailureKind.REFUSED,
        detail=str(header["detail"]),
        stage=str(header.get("stage", "build")),
        node=str(header.get("node", "")),
        seconds=seconds,
    )


def failure_of(death: Death, job: BuildJob, hard_bytes: int, seconds: float) -> BuildFailed:
    """What a death means.

    Args:
        death: how it ended.
        job: what it was to build.
        hard_bytes: the memory it was allowed.
        seconds: it ran.
    """
    status = death.last.get("status")
    tail = " ".join(str(death.last.get("tail", "")).split())
    said = f"; it last printed: {tail[-_QUOTED:]}" if tail else ""
    if death.cancelled:
        kind, detail, said = FailureKind.CANCELLED, "the build was given up", ""
    elif death.timed_out:
        kind, detail = FailureKind.TIMED_OUT, f"not built within {job.timeout_s:g} s"
    elif death.grown_bytes:
        kind = FailureKind.OUT_OF_MEMORY
        detail = f"the builder grew to {format_bytes(death.grown_bytes)}; {format_bytes(hard_bytes)} were allowed"
    elif death.problem:
        kind, detail = FailureKind.CRASHED, f"the builder failed after {seconds:.1f} s: {death.problem}"
    elif status == -signal.SIGKILL and death.oom_kills > 0:
        kind, detail = FailureKind.OUT_OF_MEMORY, "the system killed the builder for want of memory"
    else:
        kind, detail = FailureKind.CRASHED, f"the builder {_death(status)} after {seconds:.1f} s"
    return BuildFailed(kind=kind, detail=detail + said, seconds=seconds)


def _death(status: int | None) -> str:
    if status is None:
        return "could not be started"
    if status < 0:
        with suppress(ValueError):
            return f"died of {signal.Signals(-status).name}"
        return f"died of signal {-status}"
    return f"exited with code {status}"
