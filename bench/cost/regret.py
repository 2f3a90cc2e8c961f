"""What choosing by the cost model costs: the time lost against choosing by measured times.

    python bench/cost/accuracy.py --work DIR --json …          # first: predictions, then times, in DIR
    python bench/cost/regret.py --work DIR --json bench/results/regret.json
    python bench/cost/regret.py --quick

Three kinds of choice, each enumerated in full. Measured here: the engine of a whole graph, and engine and number of
threads together. On GPUs: which of them, how many, and where a pipeline is cut; a model's whole time on each GPU was
measured (NeuSight's data, the predictions of bench/cost/gpu.py for a GPU that it never saw), that its layers share that
time evenly, and that stages hand over in no time, is simulated. See bench/README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.cost import accuracy as cost_accuracy
from bench.cost.models import DEV, HELD_OUT, graph_names
from bench.cost.work import OutOfTimeError, Work, by_pair, time_of
from bench.harness.children import ROOT, call_child
from bench.harness.harness import Report, parse, parser, table
from djinn_fx.costmodels.profile import profile_folder

#: Engines whose artefacts serve any number of threads.
THREADED = ("eager", "packed", "openvino", "onnxruntime")
#: Layers of the models in the GPU data.
LAYERS = {"bert_large": 24, "gpt2_large": 36, "opt_13": 24, "gpt3_xl": 24, "gpt3_27": 32, "switchxl4": 24}

Found = dict[str, Any]
#: Option → seconds.
Times = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Regret:
    """What one choice lost.

    Attributes:
        what: was decided about.
        chosen: by the model.
        best: by measured times.
        loss: measured time of what was chosen over that of the best, less 1.
        options: how many there were.
        noise: the same loss for choosing by the times of a single process; None without several.
    """

    what: str
    chosen: str
    best: str
    loss: float
    options: int
    noise: float | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, compare, print, write. Returns the exit code."""
    arguments = _arguments(argv)
    if arguments.work is None:
        with tempfile.TemporaryDirectory(prefix="djinn-regret-", ignore_cleanup_errors=True) as folder:
            arguments.work = Path(folder)
            return _run(arguments)
    return _run(arguments)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__ or "", runs=3)
    made.add_argument("--work", type=Path, metavar="DIR", help="of bench/cost/accuracy.py, with its times")
    made.add_argument("--families", default="held-out", choices=("held-out", "dev"), help="which graphs")
    made.add_argument(
        "--profile", type=Path, metavar="DIR", help="folder of the profile (default: where djinn calibrate puts it)"
    )
    made.add_argument("--limit", type=float, default=1e9, metavar="SECONDS", help="stop measuring after this time")
    made.add_argument("--later", metavar="NAME", help="choose by the predictions made under this name after measuring")
    made.add_argument(
        "--gpu", type=Path, default=ROOT / "bench" / "results" / "cost_gpu.json", metavar="FILE",
        help="what bench/cost/gpu.py --json wrote",
    )  # fmt: skip
    made.add_argument("--one-thread", type=int, default=0, metavar="N", help="time N graphs on one thread first")
    arguments = parse(made, argv)
    arguments.profile = arguments.profile or profile_folder()  # a child process has a cache folder of its own
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    work = Work(arguments.work.resolve(), arguments.limit)
    if arguments.quick:
        given = ["--quick", "--work", str(work.root), "--profile", str(arguments.profile)]
        cost_accuracy.main(given)
    graphs = graph_names(HELD_OUT if arguments.families == "held-out" else DEV)
    if arguments.one_thread:
        try:
            work.measure(work.captured(graphs)[: arguments.one_thread], THREADED, arguments.runs, threads=1)
        except OutOfTimeError:
            print(f"out of time; go on with --work {work.root}", flush=True)
            return 3
    name = f"predictions-{arguments.families}" + (f"-{arguments.later}" if arguments.later else "")
    predictions, facts = work.predicted(name)
    report = Report("regret", arguments)
    report.fact("predictions", facts)
    found = {
        "engine": engine_choices(predictions, work.measured()) if predictions else [],
        "engine and threads": _thread_choices(predictions, work, str(arguments.profile.resolve()))
        if predictions
        else [],
        "GPU pipeline": pipelines(_gpu_models(arguments.gpu)),
    }
    _tell(report, found)
    return report.finish()


def _tell(report: Report, found: Mapping[str, Sequence[Regret]]) -> None:
    rows = []
    for kind, choices in found.items():
        report.fact(kind, [asdict(one) for one in choices])
        if choices:
            losses, noise = [one.loss for one in choices], [one.noise for one in choices if one.noise is not None]
            right = sum(one.loss == 0 for one in choices) / len(choices)
            cells = [f"{100 * value:.2f}" for value in (statistics.fmean(losses), max(losses), right)]
            cells.append(f"{100 * statistics.fmean(noise):.2f}" if noise else "")
            rows.append([kind, len(choices), sum(one.options for one in choices), *cells])
    headers = ["choice", "choices", "options", "mean loss %", "max loss %", "best chosen %", "by one measuring %"]
    print(table(headers, rows), flush=True)
    for kind, choices in found.items():
        worst = sorted(choices, key=lambda one: -one.loss)[:3]
        for one in worst:
            if one.loss > 0.01:
                print(f"  {kind}: {one.what}: {one.chosen} instead of {one.best}, {100 * one.loss:.1f} % lost")
    for kind, choices in found.items():
        losses = [one.loss for one in choices]
        report.bar(f"mean regret, {kind}", statistics.fmean(losses) if losses else None, 0.01)
        report.bar(f"largest regret, {kind}", max(losses, default=None), 0.05)


def regret(what: str, predicted: Times, measured: Times, single: Sequence[Times] = ()) -> Regret:
    """What choosing by predictions loses.

    Args:
        what: is decided about.
        predicted: of the options; one without a prediction is never chosen.
        measured: of the options.
        single: times of single processes, each of which could have been chosen by.

    Raises:
        ValueError: no option has both times.
    """
    options = [option for option in measured if option in predicted]
    if not options:
        raise ValueError(f"{what}: no option is both foretold and measured")
    chosen, best = min(options, key=predicted.__getitem__), min(measured, key=measured.__getitem__)
    lost = [measured[min(one, key=one.__getitem__)] / measured[best] - 1 for one in single]
    return Regret(
        what=what,
        chosen=chosen,
        best=best,
        loss=measured[chosen] / measured[best] - 1,
        options=len(measured),
        noise=statistics.fmean(lost) if len(lost) > 1 else None,
    )


# -- engines -------------------------------------------------------------------------------------------------------


def engine_choices(predictions: Found, measured: Sequence[Found]) -> list[Regret]:
    """For each graph: the engine."""
    found = []
    times = by_pair(measured, list(predictions["graphs"]))
    for graph, told in predictions["graphs"].items():
        processes = {engine: seconds for (name, engine), seconds in times.items() if name == graph}
        predicted = {engine: one["model"]["time_s"] for engine, one in told["engines"].items() if "model" in one}
        if len(processes) > 1 and any(engine in predicted for engine in processes):
            found.append(_choice(graph, predicted, processes))
    return found


def _choice(what: str, predicted: Times, processes: Mapping[str, Sequence[float]]) -> Regret:
    times = {option: time_of(seconds) for option, seconds in processes.items()}
    rounds = min(map(len, processes.values()))
    single = [{option: seconds[turn] for option, seconds in processes.items()} for turn in range(rounds)]
    return regret(what, predicted, times, single)


def _thread_choices(predictions: Found, work: Work, profile: str) -> list[Regret]:
    """For each graph that was timed on one thread too: engine and number of threads."""
    measured = work.measured()
    graphs = list(predictions["graphs"])
    alone = by_pair(measured, graphs, threads=1)
    chosen = sorted({graph for graph, _ in alone})
    if not chosen or predictions["threads"] == 1:
        return []
    given = {"graphs": chosen, "engines": THREADED, "root": str(work.root), "profile": profile, "threads": 1}
    told = call_child("bench.cost.predict:predict", given, work.caches)["graphs"]
    usual, found = by_pair(measured, graphs), []
    for graph in chosen:
        predicted, processes = {}, {}
        for count, times, models in ((1, alone, told), (predictions["threads"], usual, predictions["graphs"])):
            for engine, one in models[graph]["engines"].items():
                if (graph, engine) in times and "model" in one:
                    predicted[f"{engine}, {count} threads"] = one["model"]["time_s"]
                    processes[f"{engine}, {count} threads"] = times[graph, engine]
        if len(processes) > 1:
            found.append(_choice(graph, predicted, processes))
    return found


# -- pipelines over GPUs -------------------------------------------------------------------------------------------


def _gpu_models(path: Path) -> list[Found]:
    if not path.exists():
        return []
    facts = json.loads(path.read_text())["facts"]
    return [one for one in facts.get("unseen_models", []) if one["kind"] == "inference"]


def pipelines(models: Sequence[Found]) -> list[Regret]:
    """For each model and each two or three of the GPUs it was measured on: which of them, and how many layers each.

    Args:
        models: ``device``, ``model``, ``measured_s``, ``predicted_s``: of a whole model on a GPU.
    """
    found = []
    by_model: dict[str, dict[str, Found]] = {}
    for one in models:
        by_model.setdefault(one["model"], {})[one["device"]] = one
    for model, devices in sorted(by_model.items()):
        layers = next((count for name, count in LAYERS.items() if model.startswith(name)), 0)
        for count in (2, 3):
            for group in itertools.combinations(sorted(devices), count) if layers else ():
                splits = list(_splits(layers, count))
                predicted, measured = (
                    {str(split): _slowest(split, [devices[one][key] / layers for one in group]) for split in splits}
                    for key in ("predicted_s", "measured_s")
                )
                found.append(regret(f"{model} on {', '.join(group)}", predicted, measured))
    return found


def _splits(layers: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to give layers to so many stages; a stage may have none."""
    if count == 1:
        yield (layers,)
        return
    for first in range(layers + 1):
        for rest in _splits(layers - first, count - 1):
            yield (first, *rest)


def _slowest(split: Sequence[int], seconds: Sequence[float]) -> float:
    """Seconds between two results of a pipeline: its slowest stage."""
    return max(layers * each for layers, each in zip(split, seconds, strict=True))


if __name__ == "__main__":
    sys.exit(main())
