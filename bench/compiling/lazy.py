"""What lazily compiled engines cost the calls that run meanwhile, and what a crashing builder costs anybody.

    python bench/compiling/lazy.py --json bench/results/lazy.json
    python bench/compiling/lazy.py --quick

Measured, each in processes of their own with empty caches: the first result in background mode beside
``backend="eager"`` (interleaved); the calls of one process without builds, while its regions are built in child
processes, and afterwards; what the three modes get done in the first minute; 100 builders that crash, hang or are
killed; a decoder layer's TensorRT plan, its CPU time and whether its bytes are the same in another process. No GPU is
needed: plans are built, not run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import (
    ChildFailedError,
    Journal,
    Report,
    call_child,
    fresh_caches,
    parse,
    parser,
    ratio,
    rotated,
    table,
)

CHILD = "bench.compiling.lazy_child"
FIRST_RESULT_RATIO = 1.3
FOREGROUND_RATIO = 1.5
PLAN_CPU_S = 0.3
FAULTS = 100
PLANS = {"llama-12": ("float32", "float16", "bfloat16"), "bert": ("float16",), "vit": ("float16",)}
MODES = ("blocking", "background", "lazy")
TARGET = "sm89"

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "")
    made.add_argument("--model", help="the model of the calls (default llama-12; with --quick llama-2)")
    made.add_argument("--nice", type=int, metavar="N", help="run the builders at this niceness instead of the default")
    arguments = parse(made, argv)
    arguments.model = arguments.model or ("llama-2" if arguments.quick else "llama-12")
    report, journal = Report("lazy", arguments), Journal(arguments)
    _first_results(report, journal, arguments)
    _foreground(report, journal, arguments)
    if not arguments.quick:
        _modes(report, journal, arguments)
    _faults(report, journal, arguments)
    _plans(report, journal, arguments)
    code = report.finish()
    journal.done()
    return code


def _call(journal: Journal, step: str, function: str, **given: Any) -> Found:
    def work() -> Found:
        with fresh_caches() as caches:
            found: Found = call_child(f"{CHILD}:{function}", given, caches)
        return found

    return journal.once(step, work)


def _first_results(report: Report, journal: Journal, arguments: argparse.Namespace) -> None:
    """djinn, eager, and eager once more: what the same procedure gives for a thing against itself."""
    sides = {"djinn": "djinn", "eager": "eager", "eager again": "eager"}
    found: dict[str, list[Found]] = {name: [] for name in sides}
    for turn in range(arguments.runs):
        for name in rotated(list(sides), turn):
            step = f"first {name} {turn}"
            given = {"model": arguments.model, "quick": arguments.quick, "side": sides[name]}
            found[name].append(_call(journal, step, "first_result", **given))
    first = {name: [one["first_s"] for one in runs] for name, runs in found.items()}
    for name, samples in first.items():
        report.measured(f"first result {name}", samples, "s")
    pause = report.measured("second call djinn, which plans", [one["second_s"] for one in found["djinn"]], "s")
    noise = ratio(first["eager again"], first["eager"])
    made = report.ratio(
        "first result, djinn in the background over eager", ratio(first["djinn"], first["eager"]), noise
    )
    report.bar("first_result_over_eager", made.median, FIRST_RESULT_RATIO)
    print(
        f"\nfirst result: {made.median:.2f} of eager's (against itself {noise.median:.2f}); second call {pause:.2f} s"
    )


def _foreground(report: Report, journal: Journal, arguments: argparse.Namespace) -> None:
    """Calls one after the other, which leave the builders next to nothing, and calls with a pause as long as each."""
    rows, facts, worst = [], {}, []
    wrong, builds = 0, []
    loads = {"calls without a pause": False, "calls half of the time": True}
    for load, pause in loads.items():
        if arguments.quick and not pause:
            continue
        given = {"model": arguments.model, "quick": arguments.quick, "nice": arguments.nice, "pause": pause}
        run = _call(journal, f"foreground {load}", "foreground", **given)
        for name in ("without", "during", "after"):
            report.measured(f"{load}, {name} builds", run[name] or [0.0], "s")
            figures = (f"{1e3 * _quantile(run[name], share):.1f}" for share in (0.5, 0.99))
            rows.append([f"{load}, {name}", len(run[name]), *figures])
        half = len(run["without"]) // 2
        facts[load] = {
            "p99": _quantile(run["during"], 0.99) / _quantile(run["without"], 0.99),
            "p99 over median": _quantile(run["during"], 0.99) / _quantile(run["without"], 0.5),
            "median": _quantile(run["during"], 0.5) / _quantile(run["without"], 0.5),
            "noise of p99": _quantile(run["without"][half:], 0.99) / _quantile(run["without"][:half], 0.99),
            "without: p99 over median": _quantile(run["without"], 0.99) / _quantile(run["without"], 0.5),
            "built": run["built"], "distinct": run["distinct"], "regions": run["regions"], "repeats": run["repeats"],
            "ready": run["ready"], "seconds of building": run["build_s"],
        }  # fmt: skip
        worst.append(facts[load]["p99"])
        wrong += run["wrong"]
        if run["ready"]:
            builds.append(run["built"] / run["distinct"])
    report.fact("foreground", facts)
    print("\n" + table(["calls", "number", "median ms", "p99 ms"], rows))
    for load, figures in facts.items():
        print(f"{load}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    report.bar("foreground_p99_during_builds", max(worst), FOREGROUND_RATIO)
    report.bar("foreground_wrong_answers", wrong, 0)
    report.bar("builds_per_distinct_region", max(builds, default=None), 1)


def _modes(report: Report, journal: Journal, arguments: argparse.Namespace) -> None:
    rows = []
    for name in MODES:
        given = {"model": arguments.model, "quick": arguments.quick, "compile": name, "seconds": 60.0}
        run = _call(journal, f"mode {name}", "mode", **given)
        keys = ("calls", "first_s", "longest_later_s", "last_s")
        report.fact(f"mode {name}", {key: run[key] for key in keys})
        rows.append([name, *(f"{run[key]:.3g}" for key in keys)])
    print("\n" + table(["mode, first 60 s", "calls", "first s", "longest later s", "last s"], rows))


def _faults(report: Report, journal: Journal, arguments: argparse.Namespace) -> None:
    count = 3 if arguments.quick else FAULTS
    found = _call(journal, "faults", "faults", count=count)
    report.fact("faults", found)
    print(
        f"\n{found['injected']} builders crashed, hung or were killed under {found['calls']} calls: {found['counters']}"
    )
    report.bar("faults_injected", found["injected"], count, ">=")
    for name in ("wrong", "stuck", "orphans"):
        report.bar(f"faults_{name}", found[name], 0)


def _plans(report: Report, journal: Journal, arguments: argparse.Namespace) -> None:
    wanted = {"llama-4": ("float16",)} if arguments.quick else PLANS
    rows, cpu, different = [], [], 0
    for model, dtypes in wanted.items():
        for dtype in dtypes:
            given = {"model": model, "quick": arguments.quick, "dtype": dtype, "target": TARGET}
            try:
                # The quick form builds twice in one process only.
                turns = (1, 1) if arguments.quick else (1, 2)
                first, second = (_call(journal, f"plan {model} {dtype} {n}", "plan", **given) for n in turns)
            except ChildFailedError as error:
                report.fact(f"plan {model} {dtype}", {"failed": str(error)[-500:]})
                rows.append([f"{model} {dtype}", "failed", "", "", ""])
                different += 1
                continue
            report.fact(f"plan {model} {dtype}", [first, second])
            spent = [one["convert_cpu_s"] + one["build_cpu_s"] for one in (first, second)]
            cpu.append(statistics.median(spent))
            same = first["digest"] == second["digest"] and first["same_again"] and second["same_again"]
            different += not same
            rows.append(
                [f"{model} {dtype}", first["ops"], f"{cpu[-1]:.3f}", first["bytes"], "same" if same else "DIFFERENT"]
            )
    print("\n" + table([f"layer's plan for {TARGET}", "ops", "CPU s", "bytes", "in another process"], rows))
    report.bar("plan_cpu_s", max(cpu, default=None), PLAN_CPU_S)
    report.bar("plans_not_reproducible", different, 0)


def _quantile(samples: Sequence[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


if __name__ == "__main__":
    raise SystemExit(main())
