"""How well the GPU laws foretell kernels and whole models on a device that they never saw, and with 32 samples of it.

    python bench/cost/gpu.py --json bench/results/cost_gpu.json
    python bench/cost/gpu.py --data DIR --quick

DIR holds data of NeuSight's form (devices/, ops/, graphs/, models/), or a folder with cost/neusight below it. For each
device in DIR: (a) the laws' coefficients are fitted on every other device, those of the default data folder included,
and the device's ops and models are predicted from its data sheet alone; (b) coefficients are refined with 32 samples
of each class of its ops, and its other ops are predicted. Errors are means of |predicted / measured - 1|; the figure
of a class is the mean over devices. No time is measured here: the same data give the same figures.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.cost import gpu_data as cost_gpu_data
from bench.cost.gpu_data import Graph, Measured
from bench.cost.gpu_fit import START_SAMPLES, Samples, fit, refine_few, table_json
from bench.cost.gpu_models import kernels
from bench.harness.harness import Report, parse, parser, table, write_json
from djinn_fx.costmodels.laws.gpu import Fitted
from djinn_fx.costmodels.laws.gpu_laws import LAWS, GpuSpec, coolness, in_sequence

#: Published mean errors in percent, out of distribution (NeuSight, ASPLOS 2025): what is to be beaten.
BARS = {"bmm": 13.8, "linear": 13.9, "elementwise": 19.3, "softmax": 13.9, "norm": 56.7}
INFERENCE_BAR, TRAINING_BAR, FEW_LINEAR_BAR = 9.0, 7.0, 5.0
FEW = 32
#: The laws' start values were chosen with the open devices in view; trusted so weakly, they hardly matter.
HARDLY = 0.5
FIT_SAMPLES, QUICK_SAMPLES = 1000, 300

Operations = Mapping[str, Mapping[str, Measured]]


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, compare, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=5)
    made.add_argument("--coefficients", type=Path, metavar="FILE", help="write the laws fitted on all devices here")
    arguments = parse(made, argv)
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    usual = cost_gpu_data.find(Path(os.environ.get("DJINN_BENCH_DATA", default)))
    folder = cost_gpu_data.find(arguments.data) if arguments.data else usual
    if folder is None:
        print(f"skipped: no GPU data below {arguments.data or default}")
        return 0
    operations = cost_gpu_data.operations(folder)
    sources = _joined(operations, cost_gpu_data.operations(usual) if usual and usual != folder else {})
    report = Report("cost_gpu", arguments)
    fits = _leave_out(operations, sources, arguments)
    _unseen(report, operations, fits)
    _hardly_trusted(report, operations, _leave_out(operations, sources, arguments, HARDLY))
    _models(report, cost_gpu_data.graphs(folder), cost_gpu_data.specs(folder), fits)
    _few(report, operations, fits, arguments)
    if arguments.coefficients:
        _write_coefficients(arguments.coefficients, operations, fits)
    return report.finish()


def _write_coefficients(path: Path, operations: Operations, fits: Mapping[tuple[str, str], Fitted]) -> None:
    """The package's table: fits on every device, and how far they and the fits that left a device out were off."""
    whole, factors = {}, {}
    for name, law in LAWS.items():
        samples = {device: _some(one.samples, FIT_SAMPLES) for device, one in operations[name].items()}
        whole[name] = fit(law, list(samples.values()))
        off: dict[str, list[np.ndarray]] = {"seen": [], "unseen": []}
        for index, some in enumerate(samples.values()):
            own = law.seconds(some.spec, some.sizes, whole[name].shared + whole[name].own[index])
            off["seen"].append(some.seconds / own)
            off["unseen"].append(some.seconds / fits[name, some.spec.name].seconds(some.spec, some.sizes))
        factors[name] = {kind: np.quantile(np.concatenate(all_of), (0.1, 0.9)) for kind, all_of in off.items()}
    source = (
        "NeuSight's measured float32 kernels (github.com/sitar-lab/NeuSight, MIT), best 5 of 25 runs; fitted 2026-11-21"
    )
    write_json(path, table_json(whole, factors, source))


def _joined(operations: Operations, more: Operations) -> dict[str, dict[str, Measured]]:
    """All samples; where both folders know a device, those of the first."""
    return {law: {**more.get(law, {}), **operations[law]} for law in LAWS}


def _leave_out(
    operations: Operations, sources: Operations, arguments: argparse.Namespace, start_samples: float = START_SAMPLES
) -> dict[tuple[str, str], Fitted]:
    """Fits by law and the device that was left out."""
    limit = QUICK_SAMPLES if arguments.quick else FIT_SAMPLES
    fits = {}
    devices = sorted({device for measured in operations.values() for device in measured})
    for law in LAWS.values():
        for left_out in devices:
            others = [_some(one.samples, limit) for name, one in sources[law.name].items() if name != left_out]
            if others:
                fits[law.name, left_out] = fit(law, others, start_samples)
    return fits


def _some(samples: Samples, limit: int) -> Samples:
    order = np.random.default_rng(0).permutation(len(samples))
    return samples.pick(np.sort(order[:limit]))


def _error(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Mean absolute error in percent."""
    return float(np.mean(np.abs(predicted / measured - 1)) * 100)


def _unseen(report: Report, operations: Operations, fits: Mapping[tuple[str, str], Fitted]) -> None:
    """(a), ops."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (law, device), fitted in fits.items():
        if device in operations[law]:
            test, every = operations[law][device].test(), operations[law][device].samples
            errors = {"test": test, "all": every}
            found[law][device] = {
                name: _error(fitted.seconds(some.spec, some.sizes), some.seconds) for name, some in errors.items()
            }
    report.fact("unseen_ops", found)
    devices = sorted({device for of_law in found.values() for device in of_law})
    rows = [
        [
            law,
            *(f"{found[law][device]['test']:.1f}" if device in found[law] else "-" for device in devices),
            f"{_mean(found[law]):.1f}",
            BARS[law],
        ]
        for law in found
    ]
    print(table(["op class, unseen device, error %", *devices, "mean", "bar"], rows))
    for law, of_law in found.items():
        report.bar(f"unseen device: {law}, mean error %", _mean(of_law), BARS[law])


def _hardly_trusted(report: Report, operations: Operations, fits: Mapping[tuple[str, str], Fitted]) -> None:
    """(a) again where the laws' start values hardly count: how much of (a) is owed to them."""
    errors: dict[str, list[float]] = defaultdict(list)
    for (law, device), fitted in fits.items():
        if device in operations[law]:
            test = operations[law][device].test()
            errors[law].append(_error(fitted.seconds(test.spec, test.sizes), test.seconds))
    means = {law: float(np.mean(of_law)) for law, of_law in errors.items()}
    report.fact("unseen_ops_start_values_hardly_trusted", means)
    print("start values hardly trusted: " + ", ".join(f"{law} {mean:.1f} %" for law, mean in means.items()))


def _mean(of_law: Mapping[str, Mapping[str, float]]) -> float:
    return float(np.mean([one["test"] for one in of_law.values()]))


def predict_model(graph: Graph, spec: GpuSpec, fits: Mapping[tuple[str, str], Fitted]) -> float | None:
    """Seconds that a whole model takes: its kernels one after another, each launch hidden behind the last kernel."""
    _, mode, length, batch, fused = graph.parts
    made = kernels(graph.config, mode, length, batch, fused=fused)
    if made is None:
        return None
    by_law: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for law, sizes in made.all():
        by_law[law].append(sizes)
    if any((law, graph.device) not in fits for law in by_law):
        return None

    def total(cool: float) -> float:
        return sum(
            float(in_sequence(LAWS[law], spec, np.array(sizes), fits[law, graph.device].values(spec), cool).sum())
            for law, sizes in by_law.items()
        )

    return total(coolness(total(0.0)))


def _models(
    report: Report, graphs: Sequence[Graph], specs: Mapping[str, GpuSpec], fits: Mapping[tuple[str, str], Fitted]
) -> None:
    """(a), whole models."""
    rows: list[list[Any]] = []
    errors: dict[str, list[float]] = defaultdict(list)
    found = []
    for graph in graphs:
        seconds = predict_model(graph, specs[graph.device], fits)
        if seconds is None:
            continue
        _, mode, _, _, fused = graph.parts
        kind = {"inf": "inference", "train": "training"}[mode] + (" fused" if fused else "")
        errors[kind].append(abs(seconds / graph.seconds - 1) * 100)
        rows.append([graph.device, graph.name, f"{graph.seconds * 1e3:.0f}", f"{seconds * 1e3:.0f}",
                     f"{(seconds / graph.seconds - 1) * 100:+.1f}"])  # fmt: skip
        found.append({"device": graph.device, "model": graph.name, "kind": kind, "measured_s": graph.seconds,
                      "predicted_s": seconds})  # fmt: skip
    report.fact("unseen_models", found)
    print(table(["whole model, unseen device", "", "measured ms", "predicted ms", "error %"], rows))
    for kind, bound in (("inference", INFERENCE_BAR), ("training", TRAINING_BAR), ("inference fused", INFERENCE_BAR)):
        if errors[kind]:
            report.bar(f"unseen device: whole models, {kind}, mean error %", float(np.mean(errors[kind])), bound, "<=")


def _few(
    report: Report,
    operations: Operations,
    fits: Mapping[tuple[str, str], Fitted],
    arguments: argparse.Namespace,
) -> None:
    """(b): coefficients refined with a few samples of the device; the mean of several draws."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (law, device), fitted in fits.items():
        if device not in operations[law]:
            continue
        test = operations[law][device].test()
        errors = []
        for run in range(arguments.runs):
            order = np.random.default_rng(run).permutation(len(test))
            few, rest = test.pick(order[:FEW]), test.pick(order[FEW:])
            if len(rest):
                errors.append(_error(refine_few(fitted, few)(rest.sizes), rest.seconds))
        if errors:
            found[law][device] = {"test": float(np.mean(errors)), "worst draw": float(np.max(errors))}
    report.fact("few_samples_ops", found)
    devices = sorted({device for of_law in found.values() for device in of_law})
    rows = [
        [
            law,
            *(f"{found[law][device]['test']:.1f}" if device in found[law] else "-" for device in devices),
            f"{_mean(found[law]):.1f}",
        ]
        for law in found
    ]
    print(table([f"op class, {FEW} samples, error %", *devices, "mean"], rows))
    for device, errors_of in found["linear"].items():
        if "A100" in device:
            report.bar(f"{FEW} samples: linear on {device}, mean error %", errors_of["test"], FEW_LINEAR_BAR, "<=")


if __name__ == "__main__":
    sys.exit(main())
