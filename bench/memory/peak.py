"""How well the peak of a graph's memory is known before it runs: live tensors, and the whole process.

    python bench/memory/peak.py --json bench/results/memory_peak.json      # about half an hour
    python bench/memory/peak.py --quick

Models of Transformers with random weights, called and trained, each graph by itself, on an engine. Live: most bytes of
tensors at one moment, what comes in and the weights included, by torch's own allocator, which tells every allocation
and release. Rise: the same above what was there before. Process: how far resident memory rises during a call of a
warmed process, after malloc_trim; the kernel keeps the high-water mark, and what is foretold knows the heap's holes. A
family's graphs share a process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.cost.models import FAMILIES
from bench.harness.harness import Journal, Report, parse, parser, table
from bench.harness.steps import in_children
from bench.memory.measure import Work, works

#: Families whose training step is measured.
TRAINED = (
    "gpt2", "opt", "llama", "gpt_neox", "qwen2", "bert", "distilbert", "clip_text", "t5", "vit", "mistral", "gemma",
    "phi", "bloom", "falcon", "gptj", "roberta", "electra", "dinov2", "bart", "resnet", "convnext", "wav2vec2",
)  # fmt: skip
QUICK = ("llama", "bert", "vit")
ENGINES = ("eager", "packed", "inductor")

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, report. Returns the exit code."""
    arguments = arguments_of(argv)
    report, journal = Report("memory_peak", arguments), Journal(arguments)
    found, failed = _measured(_works(arguments), journal)
    _show(found)
    _bars(report, found)
    report.fact("graphs", found)
    report.fact("failed", failed)
    for engine in dict.fromkeys(one["engine"] for one in found):
        report.fact(f"live errors, {engine}", _summary([one for one in found if one["engine"] == engine], "live"))
    code = report.finish()
    journal.done()
    return code


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__ or "", runs=1)
    made.add_argument("--engines", default=",".join(ENGINES), metavar="A,B", help=f"of {', '.join(ENGINES)}")
    made.add_argument("--trained", type=int, default=len(TRAINED), metavar="N", help="families that are trained")
    made.add_argument("--packed", type=int, default=len(FAMILIES), metavar="N", help="families for the packed engine")
    made.add_argument(
        "--inductor", type=int, default=4, metavar="N", help="families that Inductor compiles (default 4)"
    )
    return parse(made, argv)


def _works(arguments: argparse.Namespace) -> list[Work]:
    names: Sequence[str] = QUICK if arguments.quick else tuple(FAMILIES)
    trained = QUICK[1:2] if arguments.quick else TRAINED[: arguments.trained]
    made: list[Work] = []
    for engine in arguments.engines.split(","):
        if engine == "eager":
            made += [*works(names, engine, training=False), *works(trained, engine, training=True)]
        elif engine == "packed":
            made += works(names[: 1 if arguments.quick else arguments.packed], engine, training=False)
        else:
            made += [] if arguments.quick else works(names[: arguments.inductor], engine, training=False)
    return made


def _measured(every: Sequence[Work], journal: Journal) -> tuple[list[Found], dict[str, str]]:
    found: list[Found] = []
    failed: dict[str, str] = {}
    steps = {str(work): asdict(work) for work in every}
    for graphs in in_children(steps, "bench.memory.measure:measure", journal, failed, timeout_s=600):
        found += graphs
        for one in graphs:
            print(f"{one['graph']}: live {_error(one, 'live'):+.2%}, process {_error(one, 'process'):+.2%}", flush=True)
    return found, failed


def _error(one: Found, kind: str) -> float:
    """How far what was foretold is from what was measured, as a share of the latter."""
    measured = one[kind]["measured"]
    return float(one[kind]["foretold"] / measured - 1) if measured else 0.0


def _summary(found: Sequence[Found], kind: str) -> Found:
    errors = sorted(_error(one, kind) for one in found)
    sizes = sorted(map(abs, errors))
    return {
        "graphs": len(errors),
        "median": statistics.median(sizes),
        "p95": sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))],
        "most_under": max(0.0, -errors[0]),
        "most_over": max(0.0, errors[-1]),
    }


def _show(found: Sequence[Found]) -> None:
    rows = []
    for engine in dict.fromkeys(one["engine"] for one in found):
        mine = [one for one in found if one["engine"] == engine]
        for kind in ("live", "rise", "process"):
            told = _summary(mine, kind)
            shares = [f"{told[name]:.2%}" for name in ("median", "p95", "most_under", "most_over")]
            rows.append([f"{engine}, {kind}", told["graphs"], *shares])
    print("\n" + table(["what", "graphs", "median", "p95", "most under", "most over"], rows), flush=True)


def _bars(report: Report, found: Sequence[Found]) -> None:
    live, process = _summary(found, "live"), _summary(found, "process")
    report.fact("live", live)
    report.fact("process", process)
    report.bar("graphs", len(found), 60, ">=")
    report.bar("families", len({one["family"] for one in found}), 20, ">=")
    report.bar("engines", len({one["engine"] for one in found}), 3, ">=")
    report.bar("live: median error", live["median"], 0.01)
    report.bar("live: p95 of errors", live["p95"], 0.05)
    report.bar("live: most under", live["most_under"], 0.02)
    report.bar("process: median error", process["median"], 0.05)


if __name__ == "__main__":
    sys.exit(main())
