"""Sessions by chance, fitted to the open trace: for those who do not have it, and for what it does not say.

Quantiles stand for distributions, straight between them in logarithms. Tools, tenants and steps until a session's next
turn are the generator's own: tools differ in how long they take, sessions in which they use.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence

from bench.sessions.load import Job, Turn

#: Of the trace's description: share of values below, value.
CALLS = ((0.0, 2), (0.25, 20), (0.5, 47), (0.9, 170), (0.99, 400), (1.0, 560))
FIRST_TOKENS = ((0.0, 8_000), (0.5, 18_000), (0.9, 40_000), (1.0, 90_000))
NEW_TOKENS = ((0.0, 30), (0.5, 640), (0.9, 4_000), (0.96, 8_000), (1.0, 60_000))
OUTPUT_TOKENS = ((0.0, 20), (0.5, 216), (0.9, 905), (0.99, 3_743), (1.0, 12_000))
TOOL_S = ((0.0, 1), (0.25, 5), (0.5, 8), (0.75, 19), (0.9, 70), (0.95, 152), (0.99, 613), (1.0, 4_000))
USER_S = ((0.0, 5), (0.5, 149), (0.9, 2_432), (0.99, 15_050), (1.0, 80_000))
BUSY_S = ((0.0, 1), (0.5, 6), (0.9, 18.3), (0.99, 61), (1.0, 120))
#: Shares of turns that end with a person's turn, and that leave the context (mostly cut to something shorter).
PERSONS, DIVERGES, MOST_TOKENS = 0.07, 0.018, 400_000
#: How much longer than the mean wait each tool's are.
TOOLS = {"read": 0.3, "edit": 0.5, "search": 1.0, "shell": 1.6, "test": 4.0, "browser": 2.5}


def drawn(quantiles: Sequence[tuple[float, float]], chance: random.Random) -> float:
    """A value by its quantiles."""
    where = chance.random()
    place = min(bisect_right([share for share, _ in quantiles], where), len(quantiles) - 1)
    (a, low), (b, high) = quantiles[place - 1], quantiles[place]
    return math.exp(math.log(low) + (where - a) / (b - a) * (math.log(high) - math.log(low)))


def sessions_like(count: int, seed: int, tenants: int = 4) -> list[Job]:
    """So many sessions."""
    chance = random.Random(seed)
    return [_session(number, "abcdefgh"[number % min(8, tenants)], chance) for number in range(count)]


def _session(number: int, tenant: str, chance: random.Random) -> Job:
    turns: list[Turn] = []
    tools = chance.sample(sorted(TOOLS), 3)
    before, tool = 0, "user"
    calls = round(drawn(CALLS, chance))
    steps = 1
    for place in range(calls):
        gap = 0.0
        if place:
            one = USER_S if tool == "user" else TOOL_S
            pace = 1.0 if tool == "user" else TOOLS[tool] / 1.2
            # Of a wait of several steps the client knows how many, and nobody how long each takes.
            gap = sum(drawn(one, chance) * pace for _ in range(steps))
        new = round(drawn(FIRST_TOKENS if not place else NEW_TOKENS, chance))
        cut = place and (chance.random() < DIVERGES or before + new > MOST_TOKENS)
        common = min(round(before * chance.uniform(0.05, 0.9)), 100_000) if cut else before
        tool = "user" if chance.random() < PERSONS else chance.choice(tools)
        steps = 1 if tool == "user" or chance.random() < 0.7 else chance.randint(2, 6)
        outputs = round(drawn(OUTPUT_TOKENS, chance))
        turns.append(
            Turn(gap, common, common + new, outputs, tool, None if tool == "user" else steps, drawn(BUSY_S, chance))
        )
        before = turns[-1].tokens
    return Job(f"made-{number}", 0.0, turns, tenant)
