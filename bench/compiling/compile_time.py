"""What djinn's compile costs, and what its code is worth, against Inductor's.

Measured for each model: the first call on a machine that never compiled it (cold: a new process, empty cache
directories), the first call of a second process (warm: the same directories), both beside the first calls with
``aot_eager`` and ``eager``, which are the floor; then the steady call, in one process that holds both compiled models.
Also what a call of a tiny graph costs over ``backend="eager"``. See bench/README.md for how, and how to read it.

    python bench/compiling/compile_time.py --json bench/results/compile_time.json
    python bench/compiling/compile_time.py --quick
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import (
    Caches,
    ChildFailedError,
    Journal,
    Ratio,
    Report,
    call_child,
    fresh_caches,
    parse,
    parser,
    ratio,
    rotated,
    successive,
    table,
)
from bench.harness.models import MODELS

CHILD = "bench.compiling.compile_time_child"
SIDES = ("djinn", "inductor")
FLOORS = ("aot_eager", "eager")

COLD_RATIOS = {"llama-24": 0.55, "llama-48": 0.40}
WARM_RATIO = 0.9
STEADY_RATIO = 1.05
CALL_OVERHEAD_US = 15.0

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = _arguments(argv)
    report, journal = Report("compile_time", arguments), Journal(arguments)
    runs: dict[str, list[Found]] = {}
    failures: list[str] = []
    for model in arguments.models:
        for turn in range(arguments.runs):
            with _noting(failures, model):
                step = journal.once(f"{model} {turn}", functools.partial(measure, model, turn, arguments.quick))
                runs.setdefault(model, []).append(step)
        if model in runs:
            summarise(model, runs[model], report)
    overhead_us = None
    if arguments.overhead:
        with _noting(failures, "call overhead"):
            found = next((step["call overhead"] for steps in runs.values() for step in steps if arguments.quick), None)
            overhead_us = call_overhead(found or journal.once("call overhead", measure_overhead), report)
    print_tables(runs)
    report.fact("failures", failures)
    report.fact("compile cost", compile_cost(runs))
    bars(runs, overhead_us, len(failures), report)
    code = report.finish()
    if not failures:
        journal.done()
    return code


@contextlib.contextmanager
def _noting(failures: list[str], what: str) -> Iterator[None]:
    """Go on after a failed child process."""
    try:
        yield
    except ChildFailedError as error:
        print(f"  {what} FAILED: {error}", flush=True)
        failures.append(f"{what}: {error}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument(
        "--models",
        type=lambda text: tuple(filter(None, text.split(","))),
        metavar="A,B",
        help=f"which models (default all: {','.join(MODELS)}; with --quick llama-4; llama-N for any N)",
    )
    made.add_argument("--no-overhead", dest="overhead", action="store_false", help="leave the cost of a tiny call out")
    arguments = parse(made, argv)
    if arguments.models is None:
        arguments.models = ("llama-4",) if arguments.quick else MODELS
    unknown = [m for m in arguments.models if m not in MODELS and not m.removeprefix("llama-").isdecimal()]
    if unknown:
        made.error(f"no model {unknown[0]!r}; known: {', '.join(MODELS)}, and llama-N")
    return arguments


# -- measuring ----------------------------------------------------------------------------------------------------


def measure(model: str, turn: int, quick: bool) -> Found:
    """One run of one model: cold and warm first calls of both sides in turn, the floors, the steady calls."""
    found: Found = {}
    with fresh_caches() as ours, fresh_caches() as theirs, fresh_caches() as floors:
        caches = {"djinn": ours, "inductor": theirs}
        for name in ("cold", "warm"):
            for side in rotated(SIDES, turn):
                found[f"{name} {side}"] = _first_call(side, model, quick, caches[side], f"{name}, run {turn + 1}")
        for side in () if quick else FLOORS:
            found[side] = _first_call(side, model, quick, floors, f"floor, run {turn + 1}")
        both = Caches(djinn=ours.djinn, inductor=theirs.inductor, home=theirs.home)
        plan = {"rounds": 4, "block_s": 0.1} if quick else {"rounds": 12, "block_s": 1.0}
        found["steady"] = call_child(f"{CHILD}:steady", {"model": model, "quick": quick, **plan}, both)
        if quick:  # here, because the headers are precompiled already
            found["call overhead"] = call_child(f"{CHILD}:overhead", {"rounds": 20, "calls": 1000, "quick": True}, both)
    return found


def _first_call(backend: str, model: str, quick: bool, caches: Caches, what: str) -> Found:
    start = time.perf_counter()
    found: Found = call_child(f"{CHILD}:first_call", {"backend": backend, "model": model, "quick": quick}, caches)
    process_s = time.perf_counter() - start
    print(f"  {model} {backend}, {what}: {found['seconds']:.2f} s (process {process_s:.0f} s)", flush=True)
    return found


def measure_overhead() -> Found:
    """Calls of tiny graphs, 80,000 a backend."""
    with fresh_caches() as caches:
        found: Found = call_child(f"{CHILD}:overhead", {"rounds": 40, "calls": 2000}, caches)
    return found


# -- what it means ------------------------------------------------------------------------------------------------


def series(steps: Sequence[Found], name: str) -> list[float]:
    """Seconds of one kind of first call, one a run; empty if it was left out."""
    return [step[name]["seconds"] for step in steps if name in step]


def steady_series(steps: Sequence[Found], case: str) -> list[float]:
    """Seconds of a steady call, one a block, over all runs."""
    return [sample for step in steps for sample in step["steady"]["samples"][case]]


def first_ratio(steps: Sequence[Found], name: str) -> Ratio:
    """Djinn's first call over Inductor's: ``cold`` or ``warm``."""
    return ratio(series(steps, f"{name} djinn"), series(steps, f"{name} inductor"))


def steady_ratio(steps: Sequence[Found]) -> Ratio:
    """Djinn's steady call over Inductor's, block by block."""
    return ratio(steady_series(steps, "djinn"), steady_series(steps, "inductor"))


def steady_noise(steps: Sequence[Found]) -> Ratio:
    """Inductor's steady call over itself, block by block."""
    return ratio(steady_series(steps, "inductor again"), steady_series(steps, "inductor"))


def wrong_answers(steps: Sequence[Found]) -> int:
    """Djinn's answers that are not eager's."""
    firsts = sum(step[f"{name} djinn"]["wrong"] for step in steps for name in ("cold", "warm"))
    return int(firsts + sum(step["steady"]["checks"]["djinn"]["wrong"] for step in steps))


def summarise(model: str, steps: Sequence[Found], report: Report) -> None:
    """Print one model's figures, and put them into the report."""
    for name in ("cold", "warm"):
        for side in SIDES:
            report.measured(f"{model} {name} {side}", series(steps, f"{name} {side}"), "s")
        floor = successive(series(steps, f"{name} inductor"))
        found = report.ratio(f"{model} {name}", first_ratio(steps, name), floor)
        print(f"  {model} {name}: ratio {found}; noise {floor or 'unknown: one run'}", flush=True)
    for side in FLOORS:
        if series(steps, side):
            report.measured(f"{model} first call {side}", series(steps, side), "s")
    for case in steps[0]["steady"]["samples"]:
        report.measured(f"{model} steady {case}", steady_series(steps, case), "s")
    noise = steady_noise(steps)
    found = report.ratio(f"{model} steady", steady_ratio(steps), noise)
    print(f"  {model} steady: ratio {found}; noise {noise}", flush=True)
    report.fact(model, {"regions": regions(steps), "answers": answers(steps), "phases": all_phases(steps)})
    report.fact(
        f"{model} first calls",
        [{k: v for k, v in step.items() if k not in ("steady", "call overhead")} for step in steps],
    )


def regions(steps: Sequence[Found]) -> Found:
    """How djinn cut the model, as the first cold call tells."""
    cold = steps[0]["cold djinn"]
    names = ("graphs", "ops", "regions", "distinct", "compiles", "fallbacks", "builds", "passes", "unwatched")
    return {name: cold[name] for name in names}


def answers(steps: Sequence[Found]) -> Found:
    """Largest difference from eager over all calls that were checked, by side."""
    found: Found = {}
    for side in SIDES:
        checks = [step[f"{name} {side}"] for step in steps for name in ("cold", "warm")]
        checks += [step["steady"]["checks"][side] for step in steps]
        found[side] = {
            "error": max(check["error"] for check in checks),
            "relative_error": max(check["relative_error"] for check in checks),
            "wrong": sum(check["wrong"] for check in checks),
        }
    return found


def all_phases(steps: Sequence[Found]) -> dict[str, dict[str, float]]:
    """Where the time of each kind of first call goes: medians over the runs."""
    kinds = [f"{name} {side}" for name in ("cold", "warm") for side in SIDES]
    return {kind: _median_phases([step[kind] for step in steps]) for kind in kinds}


def _median_phases(calls: Sequence[Found]) -> dict[str, float]:
    names = [name for name in calls[0]["phases"] if any(call["phases"][name] for call in calls)]
    found = {name: statistics.median(call["phases"][name] for call in calls) for name in names}
    return found | {"(imports, part of the above)": statistics.median(call["imports_s"] for call in calls)}


def call_overhead(found: Mapping[str, Mapping[str, Sequence[float]]], report: Report) -> float:
    """Print and keep what a call of a tiny graph costs over ``backend="eager"``; djinn's worst median in us."""
    worst, rows = 0.0, []
    for graph, samples in found.items():
        eager = samples["eager"]
        for backend, values in samples.items():
            median = report.measured(f"call of {graph}, {backend}", values, "us")
            over = [a - b for a, b in zip(values, eager, strict=True)]
            report.measured(f"call of {graph}, {backend} over eager", over, "us")
            middle = statistics.median(over)
            rows.append([graph, backend, f"{median:.2f}", f"{middle:+.2f}", f"[{min(over):+.2f}, {max(over):+.2f}]"])
            worst = max(worst, middle) if backend == "djinn" else worst
    print("\n" + table(["graph", "backend", "us a call", "over eager", "smallest, largest"], rows), flush=True)
    return worst


def compile_cost(runs: Mapping[str, Sequence[Found]]) -> Found | None:
    """A straight line through seconds against ops of the regions djinn compiled.

    The first region of a process is left out: it pays for starting Inductor. find-regions uses such a line.
    """
    points = [
        (built["ops"], built["seconds"])
        for steps in runs.values()
        for step in steps
        for built in step["cold djinn"]["builds"][1:]
        if built["outcome"] == "built"
    ]
    if len({ops for ops, _ in points}) < 2:
        return None
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return {"regions": len(points), "seconds_an_op": slope, "seconds_a_region": intercept}


# -- printing -----------------------------------------------------------------------------------------------------


def print_tables(runs: Mapping[str, Sequence[Found]]) -> None:
    """The result, and where the time goes."""
    if not runs:
        return
    columns: dict[str, Callable[[str, Sequence[Found]], object]] = {
        "model": lambda model, _: model,
        **{f"{name} {side}": _seconds(f"{name} {side}") for name in ("cold", "warm") for side in SIDES},
        **{side: _seconds(side) for side in FLOORS},
        "cold ratio": lambda _, steps: f"{first_ratio(steps, 'cold').median:.3f}",
        "noise": lambda _, steps: _spread(successive(series(steps, "cold inductor"))),
        "warm ratio": lambda _, steps: f"{first_ratio(steps, 'warm').median:.3f}",
        "noise ": lambda _, steps: _spread(successive(series(steps, "warm inductor"))),
    }
    print("\nFirst calls, seconds\n" + _table(columns, runs))
    columns = {
        "model": lambda model, _: model,
        "djinn ms": lambda _, steps: f"{1e3 * statistics.median(steady_series(steps, 'djinn')):.3f}",
        "inductor ms": lambda _, steps: f"{1e3 * statistics.median(steady_series(steps, 'inductor')):.3f}",
        "eager ms": lambda _, steps: f"{1e3 * statistics.median(steady_series(steps, 'eager')):.3f}",
        "ratio": lambda _, steps: f"{steady_ratio(steps).median:.3f}",
        "noise": lambda _, steps: _spread(steady_noise(steps)),
        "regions": lambda _, steps: steps[0]["cold djinn"]["regions"],
        "distinct": lambda _, steps: steps[0]["cold djinn"]["distinct"],
        "compiles": lambda _, steps: steps[0]["cold djinn"]["compiles"],
        "fallbacks": lambda _, steps: steps[0]["cold djinn"]["fallbacks"],
        "djinn error": lambda _, steps: f"{answers(steps)['djinn']['error']:.1e}",
        "inductor error": lambda _, steps: f"{answers(steps)['inductor']['error']:.1e}",
        "wrong": lambda _, steps: wrong_answers(steps),
    }
    print("\nSteady calls, and how the model was cut\n" + _table(columns, runs))
    for model, steps in runs.items():
        found = all_phases(steps)
        names = list(dict.fromkeys(name for phases in found.values() for name in phases))
        names.sort(key=lambda name: name.startswith("("))
        rows = [
            [name, *(f"{phases[name]:.2f}" if name in phases else "" for phases in found.values())] for name in names
        ]
        print(f"\nWhere the first call's time goes, {model}, seconds\n" + table(["", *found], rows))
    print(flush=True)


def _table(columns: Mapping[str, Callable[[str, Sequence[Found]], object]], runs: Mapping[str, Sequence[Found]]) -> str:
    rows = [[cell(model, steps) for cell in columns.values()] for model, steps in runs.items()]
    return table([name.strip() for name in columns], rows)


def _seconds(name: str) -> Callable[[str, Sequence[Found]], str]:
    def cell(_: str, steps: Sequence[Found]) -> str:
        values = series(steps, name)
        return f"{statistics.median(values):.2f}" if values else ""

    return cell


def _spread(noise: Ratio | None) -> str:
    return "" if noise is None else f"{noise.low:.3f}-{noise.high:.3f}"


def bars(runs: Mapping[str, Sequence[Found]], overhead_us: float | None, crashes: int, report: Report) -> None:
    """Hold the figures against what was promised."""
    for model, bound in COLD_RATIOS.items():
        value = first_ratio(runs[model], "cold").median if model in runs else None
        report.bar(f"cold_ratio_{model.partition('-')[2]}", value, bound)
    report.bar("warm_ratio", max((first_ratio(s, "warm").median for s in runs.values()), default=None), WARM_RATIO)
    report.bar("steady_ratio", max((steady_ratio(s).median for s in runs.values()), default=None), STEADY_RATIO)
    report.bar("call_overhead_us", overhead_us, CALL_OVERHEAD_US)
    colds = [step["cold djinn"] for steps in runs.values() for step in steps]
    unequal = sum(cold["compiles"] != cold["distinct"] for cold in colds) if runs else None
    report.bar("models_where_compiles_differ_from_distinct_regions", unequal, 0, "==")
    report.bar("wrong", sum(map(wrong_answers, runs.values())) if runs else None, 0, "==")
    report.bar("crashes", crashes, 0, "==")


if __name__ == "__main__":
    sys.exit(main())
