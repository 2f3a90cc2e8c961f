"""A chat service's requests against a pool of blocks: which share of prompts is found there (Mooncake's trace).

    python bench/sessions/blocks.py --data ../shared/data/agent --json bench/results/sessions_blocks.json

The trace has no sessions: what is kept or dropped is a block of 512 tokens, known by its hash, and a block counts as
found while all blocks before it in the prompt are. The policies are those of sessions, with a block as a context; the
only thing that tells one wait from another is whether the block was ever used again. Nobody foretells anything.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, table
from bench.sessions.simulate import default_data
from bench.sessions.traces import found, mooncake
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.policy.named import policy_named
from djinn_fx.sessions.policy.state import Context, Phase, PlainPools, Tier

BLOCK_TOKENS = 512
BLOCK_BYTES = BLOCK_TOKENS * 128 * 1024
Requests = Sequence[tuple[float, int, int, tuple[int, ...]]]


@dataclass(frozen=True)
class Found:
    """What a pool of blocks came to.

    Attributes:
        blocks: asked for.
        hits: of these, found.
        computed_bytes: keys and values that had to be made.
    """

    blocks: int
    hits: int

    @property
    def computed_bytes(self) -> int:
        """Keys and values that had to be made."""
        return (self.blocks - self.hits) * BLOCK_BYTES


def infinite(requests: Requests) -> Found:
    """With room for everything."""
    seen: set[int] = set()
    asked = hits = 0
    for _, _, _, blocks in requests:
        asked += len(blocks)
        hits += _leading(blocks, seen)
        seen.update(blocks)
    return Found(asked, hits)


def _leading(blocks: Sequence[int], there: set[int]) -> int:
    for place, one in enumerate(blocks):
        if one not in there:
            return place
    return len(blocks)


def play(requests: Requests, policy: Policy, capacity: int) -> Found:
    """A pool of so many blocks under a policy."""
    policy.attach(PlainPools({Tier.DEVICE: capacity}))
    following = next_uses(requests)
    contexts: dict[int, Context] = {}
    there: set[int] = set()
    asked = hits = 0
    for now, _, _, blocks in requests:
        asked += len(blocks)
        hits += _leading(blocks, there)
        uses = next(following)
        for one in blocks:
            if one not in contexts:
                contexts[one] = Context(str(one), tool="once", size_bytes=1, tokens=BLOCK_TOKENS)
                policy.opened(contexts[one], now)
            if contexts[one].phase is Phase.WAITING:
                contexts[one].phase = Phase.WANTED
                policy.began(contexts[one], now)
        missing = [one for one in dict.fromkeys(blocks) if one not in there]
        short = len(there) + len(missing) - capacity
        if short > 0:
            for move in policy.room(Tier.DEVICE, short, now):
                context = move.context
                there.discard(int(context.key))
                context.device_bytes = 0
                policy.moved(context, Tier.DEVICE, Tier.NOWHERE, now)
                short -= 1
                if short <= 0:
                    break
        # A prompt larger than the pool keeps its first blocks.
        kept = missing[: capacity - len(there)]
        there.update(kept)
        for one, use in zip(blocks, uses, strict=True):
            context = contexts[one]
            context.device_bytes = int(one in there)
            context.tool = "again" if context.turns else "once"
            context.phase, context.since, context.next_use = Phase.WAITING, now, use
            context.turns += 1
            policy.ended(context, now)
        for _ in policy.due(now):
            pass
    return Found(asked, hits)


def next_uses(requests: Requests) -> Iterator[list[float | None]]:
    """Of each request, when each of its blocks is asked for next."""
    later: dict[int, float] = {}
    found: list[list[float | None]] = []
    for now, _, _, blocks in reversed(requests):
        found.append([later.get(one) for one in blocks])
        later.update(dict.fromkeys(blocks, now))
    return reversed(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=1), argv)
    data = arguments.data or default_data()
    files = found(data, "hash_ids") if data is not None else []
    report = Report("sessions_blocks", arguments)
    if not files:
        print("no trace with hashes of blocks found: nothing to play (--data)")
        return report.finish()
    requests = mooncake(files[0])[: 1500 if arguments.quick else None]
    best = infinite(requests)
    rows = [["room for everything", f"{100 * best.hits / best.blocks:.1f} %", f"{best.computed_bytes / 1e12:.1f}", ""]]
    report.fact("room for everything", best.hits / best.blocks)
    for gigabytes in (64, 256, 1024):
        capacity = gigabytes * 10**9 // BLOCK_BYTES
        rates = {}
        for name in ("lru", "arc", "djinn", "clairvoyant"):
            one = play(requests, policy_named(name, **({"copies": False} if name == "djinn" else {})), capacity)
            rates[name] = one.hits / one.blocks
            closed = (rates[name] - rates["lru"]) / max(1e-9, best.hits / best.blocks - rates["lru"])
            rows.append(
                [
                    f"{gigabytes} GB, {name}",
                    f"{100 * rates[name]:.1f} %",
                    f"{one.computed_bytes / 1e12:.1f}",
                    f"{closed:.2f}",
                ]
            )
        report.fact(f"hit rates at {gigabytes} GB", rates)
    print("\n" + table(["pool and policy", "blocks found", "TB computed", "of LRU's gap to all"], rows))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
