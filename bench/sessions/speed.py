"""How long our policy takes for what a serving loop waits for: a signal, and the choice of who leaves.

    python bench/sessions/speed.py --json bench/results/sessions_speed.json

A signal is the end of a wait and the beginning of the next one with another estimate. A decision is everything until
the first victim is named, outlooks that ended meanwhile included; the clock goes on as fast as such a server's would.
Seconds are the thread's own: what else the machine did is not the policy's.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser
from bench.sessions.judging import percentile
from djinn_fx.sessions.policy.state import Context, Phase, PlainPools, Tier
from djinn_fx.sessions.policy.value import ByValue

GB = 10**9
TOOLS = ("shell", "search", "edit", "user")
#: Keys and values of a small context: 1,000 tokens of 128 KB; bookkeeping is held against these.
CONTEXT_BYTES = 1000 * 128 * 1024


class Crowd:
    """Many sessions that wait, on the device and off it."""

    def __init__(self, count: int) -> None:
        self.chance = random.Random(0)
        self.now = 0.0
        self.policy = ByValue()
        self.policy.attach(PlainPools({Tier.DEVICE: count * CONTEXT_BYTES // 2, Tier.HOST: count * CONTEXT_BYTES}))
        self.contexts = [self._made(number) for number in range(count)]
        # A session has a turn every 20 s or so; seconds that pass between two turns of any of them.
        self.pace = 20.0 / count
        for _ in range(min(count, 5_000)):
            self.signal(self.chance.choice(self.contexts))
        list(self.policy.due(self.now))

    def _made(self, number: int) -> Context:
        away = number % 2
        context = Context(
            str(number), tenant=f"t{number % 8}", tool=TOOLS[number % 4], tokens=1000, size_bytes=CONTEXT_BYTES,
            device_bytes=0 if away else CONTEXT_BYTES, host_bytes=CONTEXT_BYTES if away else 0, since=self.now,
            estimate_s=self.chance.lognormvariate(3, 1),
        )  # fmt: skip
        self.policy.opened(context, self.now)
        self.policy.ended(context, self.now)
        return context

    def signal(self, context: Context) -> float:
        """One wait is over and the next one begins. Returns seconds a signal."""
        self.now += self.pace
        estimate = self.chance.lognormvariate(3, 1)
        start = time.thread_time()
        context.phase = Phase.WANTED
        self.policy.began(context, self.now)
        context.phase, context.since, context.estimate_s = Phase.WAITING, self.now, estimate
        context.turns += 1
        self.policy.ended(context, self.now)
        return (time.thread_time() - start) / 2

    def decide(self) -> float:
        """Who leaves? Returns seconds."""
        start = time.thread_time()
        move = next(self.policy.room(Tier.DEVICE, GB, self.now))
        spent = time.thread_time() - start
        assert move.reason.runner_up is not None
        return spent


def _nothing() -> float:
    """Seconds of a sum that is always the same."""
    start = time.thread_time()
    sum(range(1000))
    return time.thread_time() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=5_000), argv)
    report = Report("sessions_speed", arguments)
    rounds = 500 if arguments.quick else arguments.runs
    for count, bound in ((1_000, 100e-6), (100_000, 1e-3)):
        gc.collect()
        crowd = Crowd(count)
        gc.disable()  # what it would collect is others' garbage; a server's own loop decides when
        signals, decisions = [], []
        for _ in range(rounds):
            signals.append(crowd.signal(crowd.chance.choice(crowd.contexts)))
            list(crowd.policy.due(crowd.now))
            decisions.append(crowd.decide())
        gc.enable()
        print(f"\n{count} sessions")
        for name, found in (("signal", signals), ("decision", decisions)):
            middle, late = report.measured(f"{name}, {count} sessions", found, "s"), percentile(found, 0.99)
            print(f"{name}: median {middle * 1e6:.1f} us, P99 {late * 1e6:.1f} us")
        report.bar(f"signal, P99, {count} sessions", percentile(signals, 0.99), 20e-6)
        report.bar(f"decision, P99, {count} sessions", percentile(decisions, 0.99), bound)
    floor = [_nothing() for _ in range(rounds)]
    middle, late = statistics.median(floor), percentile(floor, 0.99)
    print(f"noise floor: what takes {middle * 1e6:.1f} us takes {late * 1e6:.1f} at P99")
    report.measured("noise floor", floor, "s")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = Crowd(2_000)
    share = (tracemalloc.get_traced_memory()[0] - before) / (len(kept.contexts) * CONTEXT_BYTES)
    tracemalloc.stop()
    report.bar("bookkeeping over contexts' bytes", share, 0.02)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
