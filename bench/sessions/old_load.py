"""The load of an earlier report, and the same agents in a pool that is short.

    python bench/sessions/old_load.py --json bench/results/sessions_old_load.json

80 agents in all come at chance, one each five seconds, to a Llama-2-7B on a device of 80 GB, for 368 s. What the report
does not say is assumed here: two turns an agent, a wait of 10 to 20 s between them (uniform), prompts of 1,000
tokens, 200 more for the second turn, answers of 100. By Little's law some four agents are alive at a time; what they
have fills a few per cent of the pool, so that nothing needs to be moved. A preset says how many agents, and how large
the pool is.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, table
from bench.sessions.cells import HINTS
from bench.sessions.engine import Simulation
from bench.sessions.judging import percentile
from bench.sessions.law import GB, LLAMA_7B, law_of
from bench.sessions.load import PAGE, Job, Load, Turn
from bench.sessions.server import Server
from djinn_fx.sessions.policy.named import policy_named

SECONDS, RATE = 368.0, 0.2
#: What was reported of it: seconds of waking at P99, swaps, restores, completions.
REPORTED = {"wake P99 s": 5.2, "swaps": 924, "restores": 489, "completions": 116}


@dataclass(frozen=True)
class Preset:
    """A configuration.

    Attributes:
        agents: in all.
        pool_bytes: for keys and values.
    """

    agents: int
    pool_bytes: int


#: 80 GB less weights of 13.4 GB and a tenth. ``hero`` is the same load where two contexts fit, hardly.
PRESETS = {"quick": Preset(20, 58 * GB), "full": Preset(80, 58 * GB), "hero": Preset(80, 1_500_000_000)}


@dataclass(frozen=True)
class Figures:
    """What came of it. Waking is a turn's time from its coming to its computing, of turns that have a context."""

    wake_mean_s: float
    wake_p50_s: float
    wake_p99_s: float
    swaps: int
    restores: int
    completions: int
    success: float
    tokens_per_s: float
    alive: float
    filled: float


def load_of(preset: Preset, seed: int) -> Load:
    """The agents."""
    chance = random.Random(seed)
    jobs, now = [], 0.0
    for number in range(preset.agents):
        now += chance.expovariate(RATE)
        turns = [Turn(0.0, 0, 1000, 100, "tool"), Turn(chance.uniform(10, 20), 1100, 1300, 100, "tool")]
        jobs.append(Job(str(number), now, turns))
    return Load(tuple(jobs), window=SECONDS, warm=0.0)


def figures(preset: Preset, name: str, seed: int) -> Figures:
    """One run."""
    load, page = load_of(preset, seed), PAGE * LLAMA_7B.kv_token_bytes
    pool = preset.pool_bytes // page * page
    server = Server(law_of(LLAMA_7B, "a100-80gb"), LLAMA_7B.kv_token_bytes, pool, 64 * GB, 25 * GB)
    run = Simulation(load, policy_named(name), server, HINTS["exact"] if name == "djinn" else HINTS["none"]).run()
    done = [turn for turn in run.played if turn.done <= SECONDS]
    wakes = [turn.began - turn.came for turn in done if turn.place]
    lives = sum(turn.done - turn.came for turn in run.played) + sum(job.turns[1].gap for job in load.jobs)
    return Figures(
        wake_mean_s=statistics.fmean(wakes),
        wake_p50_s=statistics.median(wakes),
        wake_p99_s=percentile(wakes, 0.99),
        swaps=run.memory.moves,
        restores=sum(turn.loaded > 0 for turn in run.played),
        completions=len(done),
        success=len(done) / sum(turn.came <= SECONDS for turn in run.played),
        tokens_per_s=100 * len(done) / SECONDS,
        alive=lives / SECONDS,
        filled=run.alive_byte_s / SECONDS / pool,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=1), argv)
    report = Report("sessions_old_load", arguments)
    rows = []
    for preset_name, preset in PRESETS.items():
        for name in ("lru-host", "djinn"):
            one = figures(preset, name, seed=0)
            report.fact(f"{preset_name}, {name}", asdict(one))
            rows.append(
                [
                    f"{preset_name}, {name}", f"{one.alive:.1f}", f"{one.filled:.2f}", f"{1e3 * one.wake_mean_s:.1f}",
                    f"{1e3 * one.wake_p50_s:.1f}", f"{1e3 * one.wake_p99_s:.1f}", one.swaps, one.restores,
                    one.completions, f"{one.success:.2f}", f"{one.tokens_per_s:.1f}",
                ]
            )  # fmt: skip
    rows.append(["reported", "", "", "", "", 5200, 924, 489, 116, "", ""])
    heads = [
        "preset",
        "alive",
        "over",
        "wake mean ms",
        "P50",
        "P99",
        "swaps",
        "restores",
        "done",
        "success",
        "tokens/s",
    ]
    print("\n" + table(heads, rows))
    report.fact("reported", REPORTED)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
