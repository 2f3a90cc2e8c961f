"""How well this machine's cost model foretells times of graphs of families that took no part in making it.

    djinn calibrate                                                            # first: the model's profile
    python bench/cost/accuracy.py --json bench/results/cost_accuracy.json      # about an hour
    python bench/cost/accuracy.py --phase measure --work DIR --limit 170       # in slices; DIR keeps what is done
    python bench/cost/accuracy.py --quick

Graphs are captured as djinn sees them and built by every engine (``--phase prepare``), then foretold into a file that
is never written again (``predict``), then timed (``measure``): every engine in processes of its own, several of them
and far apart. See bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.cost import report as cost_report
from bench.cost.models import DEV, FAMILIES, HELD_OUT, graph_names
from bench.cost.work import ENGINES, OutOfTimeError, Work, by_pair
from bench.harness.children import call_child
from bench.harness.harness import Report, parse, parser, positive
from djinn_fx.costmodels.profile import profile_folder

QUICK_GRAPHS = ("electra/encode b1 t64", "stablelm/decode b1 t80", "deit/encode b1 t192")
QUICK_ENGINES = ("eager", "onnxruntime")
PHASES = ("prepare", "predict", "measure", "report", "all")

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, foretell, measure, report. Returns the exit code."""
    arguments = _arguments(argv)
    with _folder(arguments) as root:
        work = Work(root, arguments.limit)
        try:
            return _run(work, arguments)
        except OutOfTimeError:
            print(f"out of time; go on with --work {root}", flush=True)
            return 3


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__ or "", runs=3)
    words = lambda text: tuple(filter(None, text.split(",")))  # noqa: E731
    made.add_argument("--families", default="held-out", choices=("held-out", "dev", "all"), help="which graphs")
    made.add_argument("--engines", type=words, metavar="A,B", help=f"of {', '.join(ENGINES)} (default: all)")
    made.add_argument("--graphs", type=positive, metavar="N", help="only the first N graphs")
    made.add_argument("--phase", default="all", choices=PHASES, help="do only this part of the work")
    made.add_argument("--work", type=Path, metavar="DIR", help="where graphs, artefacts and times are kept")
    made.add_argument(
        "--profile", type=Path, metavar="DIR", help="folder of the profile (default: where djinn calibrate puts it)"
    )
    made.add_argument("--limit", type=float, default=1e9, metavar="SECONDS", help="stop after this time, and keep all")
    made.add_argument("--rescore", metavar="NAME", help="foretell anew, after measuring; reported apart, by this name")
    arguments = parse(made, argv)
    arguments.engines = arguments.engines or (QUICK_ENGINES if arguments.quick else ENGINES)
    unknown = [name for name in arguments.engines if name not in ENGINES]
    if unknown:
        made.error(f"no engine {unknown[0]!r}; known: {', '.join(ENGINES)}")
    if arguments.rescore and arguments.work is None:
        made.error("--rescore needs --work: the times are kept there")
    chosen = {"held-out": HELD_OUT, "dev": DEV, "all": FAMILIES}[arguments.families]
    arguments.profile = arguments.profile or profile_folder()  # a child process has a cache folder of its own
    arguments.graphs = QUICK_GRAPHS if arguments.quick else graph_names(chosen)[: arguments.graphs]
    return arguments


@contextlib.contextmanager
def _folder(arguments: argparse.Namespace) -> Iterator[Path]:
    """Where the work is kept: as given, beside the JSON file if it may be gone on with, else for this run alone."""
    if arguments.work is not None:
        yield arguments.work.resolve()
    elif arguments.json is not None and arguments.resume:
        yield arguments.json.with_name(arguments.json.name + ".work").resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="djinn-cost-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)


def _run(work: Work, arguments: argparse.Namespace) -> int:
    phase, name = arguments.phase, f"predictions-{arguments.families}"
    if phase in ("prepare", "all"):
        work.capture(arguments.graphs)
        work.build(arguments.graphs, arguments.engines)
    if phase in ("predict", "all"):
        foretell(work, arguments, name)
    if arguments.rescore:
        foretell(work, arguments, f"{name}-{arguments.rescore}")
    predictions, _ = work.predicted(name)
    if phase in ("measure", "all"):
        if not predictions:
            print("nothing is measured before it is foretold: --phase predict first", flush=True)
            return 2
        told = [graph for graph in arguments.graphs if graph in predictions["graphs"]]
        work.measure(told, arguments.engines, arguments.runs)
    return _report(work, arguments, name) if phase in ("report", "all") else 0


def foretell(work: Work, arguments: argparse.Namespace, name: str) -> None:
    """Write predictions, once; print the hash of their file."""
    if not work.predicted(name)[0]:
        graphs = work.captured(arguments.graphs)
        profile = str(arguments.profile.resolve())
        given = {"graphs": graphs, "engines": arguments.engines, "root": str(work.root), "profile": profile}
        work.predict(name, call_child("bench.cost.predict:predict", given, work.caches))
    values, facts = work.predicted(name)
    print(f"{name}: {len(values['graphs'])} graphs, {facts['written']}, sha256 {facts['sha256']}", flush=True)
    if "problem" in values["profile"]:
        print(f"no calibrated model: {values['profile']['problem']}", flush=True)


def _report(work: Work, arguments: argparse.Namespace, name: str) -> int:
    report = Report("cost_accuracy", arguments)
    predictions, facts = work.predicted(name)
    measured = [one for one in work.measured() if one["process"] < arguments.runs or arguments.resume]
    graphs = list(predictions["graphs"])
    times = by_pair(measured, graphs)
    times = {pair: seconds for pair, seconds in times.items() if pair[1] in arguments.engines}
    if not times:
        print("nothing was measured", flush=True)
        return 2
    scores = cost_report.score(predictions, times)
    cost_report.show(f"{len({graph for graph, _ in times})} graphs of {arguments.families} families", scores)
    noise = cost_report.noise_floor(times)
    if noise is not None:
        print(f"\nnoise floor (one process by the others): {100 * noise:.1f} % mean error", flush=True)
    _facts(report, work, arguments, measured, predictions, facts)
    report.fact("scores", _plain(scores))
    report.fact("noise", {"mean_error": noise, "within_10": cost_report.noise_within(times)})
    report.fact("samples", cost_report.samples_of(measured, graphs))
    _later(report, work, name, times)
    cost_report.bars(report, scores, noise)
    return report.finish()


def _facts(
    report: Report,
    work: Work,
    arguments: argparse.Namespace,
    measured: Sequence[Found],
    predictions: Found,
    facts: Found,
) -> None:
    """What was foretold when, and what is not in the figures."""
    first = min((one["at"] for one in measured if one["graph"] in predictions["graphs"]), default=None)
    report.fact("predictions", {**facts, "profile": predictions["profile"], "first_measured": first})
    unpriced = {graph: one["unpriced"] for graph, one in predictions["graphs"].items() if one["unpriced"]}
    shares = [one["unpriced_share"] for one in predictions["graphs"].values()]
    report.fact("unpriced", {"mean_share": sum(shares) / max(1, len(shares)), "ops": unpriced})
    refused = work.refused(arguments.graphs, arguments.engines)
    report.fact("refused", refused)
    failed = {f"{one['graph']} on {one['engine']}": one["failed"] for one in measured if "failed" in one}
    report.fact("failed", failed)
    report.fact("foretold", predictions["graphs"])
    print(
        f"foretold {facts['written']} (sha256 {facts['sha256'][:16]}), first measured {first}; "
        f"unpriced ops {100 * sum(shares) / max(1, len(shares)):.2f} %; "
        f"{len(refused)} not built, {len(failed)} failed",
        flush=True,
    )


def _later(report: Report, work: Work, name: str, times: Mapping[tuple[str, str], Sequence[float]]) -> None:
    """Models made after measuring began, scored on the same times: told apart from those that were written before."""
    later = {}
    for path in sorted(work.root.glob(f"{name}-*.json")):
        predictions, facts = work.predicted(path.stem)
        scores = cost_report.score(predictions, times)
        cost_report.show(f"foretold anew after measuring: {path.stem} ({facts['written']})", scores)
        later[path.stem] = {**facts, "profile": predictions["profile"], "scores": _plain(scores)}
    report.fact("later_models", later)


def _plain(scores: Mapping[str, Mapping[str, cost_report.Accuracy]]) -> Found:
    return {name: {engine: asdict(one) for engine, one in found.items()} for name, found in scores.items()}


if __name__ == "__main__":
    sys.exit(main())
