"""Cells of the proof: how oversubscribed the pool is, how fast the link, how long gaps may be; and what clients say."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.sessions.law import GB, LLAMA_7B, LLAMA_8B, Model, law_of
from bench.sessions.load import PAGE, Job, Load, in_equilibrium
from bench.sessions.server import Hint, Server, silent

#: Two H200 that act as one: 282 GB less weights, activations and a tenth for the rest.
DEVICE, DEVICES, POOL_BYTES = "h200", 2, 236 * GB
#: The host's pool, in device pools.
HOST_POOLS = 4
#: A context may fill so much of the pool; a session ends before the first turn that is larger.
LARGEST = 0.9
NO_CUT = 1e9
#: From which share of its seconds on a link counts as saturated.
SATURATED = 0.7


@dataclass(frozen=True)
class Cell:
    """One setting.

    Attributes:
        over: keys and values of living sessions, averaged over time, in device pools.
        link: bytes a second in each direction.
        longest_gap: gaps are cut to so many seconds.
        model: whose keys and values.
        bursts: sessions start in bursts, as requests of the Azure trace come, instead of by chance.
    """

    over: float
    link: float
    longest_gap: float = NO_CUT
    model: Model = LLAMA_8B
    bursts: bool = False

    @property
    def name(self) -> str:
        """Short, for tables."""
        cut = "" if self.longest_gap == NO_CUT else f", gaps to {self.longest_gap:g} s"
        size = "" if self.model is LLAMA_8B else ", 512 KB a token"
        return f"{self.over:g} x at {self.link / GB:g} GB/s{cut}{size}{', bursts' if self.bursts else ''}"

    def server(self) -> Server:
        """What it is played on."""
        page = PAGE * self.model.kv_token_bytes
        pool = POOL_BYTES // page * page
        return Server(
            law_of(self.model, DEVICE, DEVICES), self.model.kv_token_bytes, pool, HOST_POOLS * pool, self.link
        )

    def load(self, sessions: Sequence[Job], count: int, seed: int) -> Load:
        """Some of the sessions, in equilibrium."""
        chance = random.Random(1000 + seed)
        chosen = chance.sample(list(sessions), min(count, len(sessions)))
        token = self.model.kv_token_bytes
        largest = LARGEST * POOL_BYTES / token
        starts = bursty(len(chosen), chance) if self.bursts else None
        return in_equilibrium(chosen, token, self.over * POOL_BYTES, int(largest), seed, self.longest_gap, starts)


LINKS = (12 * GB, 25 * GB, 6 * GB, 50 * GB)


def bursty(count: int, chance: random.Random) -> list[float]:
    """Starts as parts of a window, whose gaps vary 13 times as much as their mean (the Azure trace's arrivals do)."""
    gaps = [chance.gammavariate(1 / 13.2**2, 1.0) + 1e-9 for _ in range(count + 1)]
    total, now, starts = sum(gaps), 0.0, []
    for gap in gaps[:count]:
        now += gap / total
        starts.append(now)
    return starts


WHOLE = tuple(Cell(over, link) for link in LINKS for over in (4, 6, 8))
CUT = tuple(Cell(over, link, 600.0) for link in LINKS for over in (1.5, 2, 3))
LARGE = (Cell(6, 25 * GB, NO_CUT, LLAMA_7B),)
MADE = tuple(Cell(over, 12 * GB, gap, bursts=True) for over, gap in ((6, NO_CUT), (2, 600.0)))
#: By link, so that a run that is cut short has whole ones.
CELLS = (
    tuple(cell for place in range(4) for cell in (*WHOLE[3 * place : 3 * place + 3], *CUT[3 * place : 3 * place + 3]))
    + LARGE
)
QUICK = (Cell(6, 12 * GB), Cell(2, 12 * GB, 600.0))


# -- what clients say ------------------------------------------------------------------------------------------------


def exact(job: Job, place: int, gap: float) -> float | None:
    """The truth of every wait."""
    return gap


def of_tools(job: Job, place: int, gap: float) -> float | None:
    """The truth of waits for tools, nothing of people."""
    return gap if place >= 0 and job.turns[place].tool not in ("user", "") else None


def noisy(sigma: float) -> Hint:
    """The truth times a lognormal factor, the same for the same wait whoever asks."""

    def said(job: Job, place: int, gap: float) -> float | None:
        chance = random.Random(f"{job.key} {place}")
        return gap * math.exp(chance.gauss(0.0, sigma))

    return said


def lying(tenant: str) -> Hint:
    """One tenant says of every wait that it is over in a second; all others say the truth."""

    def said(job: Job, place: int, gap: float) -> float | None:
        return 1.0 if job.tenant == tenant else gap

    return said


def without(tenant: str) -> Hint:
    """One tenant says nothing; all others say the truth."""

    def said(job: Job, place: int, gap: float) -> float | None:
        return None if job.tenant == tenant else gap

    return said


HINTS: dict[str, Hint] = {"none": silent, "exact": exact, "tools": of_tools, "noisy": noisy(1.0)}
