"""What a load is played on, what clients say meanwhile, and what becomes of each turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.sessions.law import Law
from bench.sessions.load import Job

#: Given a job, the number of a turn of it and the gap after that turn: what the client says of the gap.
Hint = Callable[[Job, int, float], float | None]


def silent(job: Job, place: int, gap: float) -> float | None:
    """A client that says nothing."""
    return None


@dataclass(frozen=True)
class Server:
    """What a load is played on.

    Attributes:
        law: what computing takes.
        token_bytes: keys and values of a token.
        pool_bytes: of the device's memory.
        host_bytes: of the host's.
        link_bytes_s: between them, in each direction.
        quotas: bytes of the device by tenant.
    """

    law: Law
    token_bytes: int
    pool_bytes: int
    host_bytes: int
    link_bytes_s: float
    quotas: dict[str, int] = field(default_factory=dict)

    def unlimited(self) -> Server:
        """The same with room for everything."""
        return Server(self.law, self.token_bytes, 1 << 60, 0, self.link_bytes_s)


@dataclass(slots=True)
class Played:
    """A turn of a job as it went. All in seconds of the clock.

    Attributes:
        job: its job's key.
        place: its number in the job.
        came: when it came.
        first_token: when its prefill was over.
        ready: when it had its memory and all that could be loaded.
        began: when computing began.
        done: when it was over.
        loaded: bytes it waited for.
        computed: tokens computed again, that the context had already.
    """

    job: str
    place: int
    tenant: str
    came: float
    first: bool
    ready: float = 0.0
    began: float = 0.0
    first_token: float = 0.0
    done: float = 0.0
    loaded: int = 0
    computed: int = 0
