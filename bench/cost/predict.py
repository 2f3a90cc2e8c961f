"""What cost models say of captured graphs: the model in force on this machine, and what it is held against.

The yardsticks are the roofline of this machine's row (nothing measured), a calibrated roofline (one efficiency a kind
of op, fitted to the same samples), and torch's own runtime estimator, which knows GPUs only and is therefore told this
machine's peak and bandwidth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.cost.baseline import baseline_seconds, fit_baseline, read_samples
from bench.cost.graphs import Folder, first_line, region_of, work_again
from djinn_fx.costmodels.laws.calibrated import CalibratedModel
from djinn_fx.costmodels.laws.roofline import RooflineModel
from djinn_fx.costmodels.profile import conditions, read_profile
from djinn_fx.costmodels.work.work import WorkGraph
from djinn_fx.hardware.catalogue import default_device
from djinn_fx.hardware.device import Device

Found = dict[str, Any]


def predict(graphs: Sequence[str], engines: Sequence[str], root: str, profile: str, threads: int = 0) -> Found:
    """Predicted seconds of some captured graphs on some engines; looks at no measured time of theirs.

    Args:
        graphs: captured ones.
        engines: names.
        root: the bench's folder.
        profile: its folder.
        threads: that the engines have; 0: torch's default.

    Returns:
        ``profile``: what the model stands on; ``graphs``: by graph its share of unpriced ops, torch's estimate, and by
        engine the seconds (and the interval of the model's).
    """
    threads = threads or torch.get_num_threads()
    device = default_device("cpu")
    model, facts = _model(profile, threads)
    yardsticks = _yardsticks(profile, engines, threads) if model is not None else {}
    found: Found = {}
    for graph in graphs:
        folder = Folder.of(root, graph)
        work = work_again(folder.facts())
        busy = [one for one in work if not one.costs_nothing]
        found[graph] = {
            "ops": len(work),
            "unpriced": sorted({one.op for one in busy if one.problem is not None}),
            "unpriced_share": sum(one.problem is not None for one in busy) / max(1, len(busy)),
            "torch": _by_torch(folder.facts(), device),
            "engines": {name: _by_models(work, name, device, model, yardsticks.get(name)) for name in engines},
        }
    return {"profile": facts, "device": device.name, "threads": threads, "graphs": found}


def _model(profile: str, threads: int) -> tuple[CalibratedModel | None, Found]:
    known = read_profile(Path(profile), conditions(threads))
    if known.profile is None:
        return None, {"problem": str(known.problem or "this machine has no profile; run djinn calibrate")}
    facts = {"made": known.profile.made, "samples": known.profile.samples, "noise": dict(known.profile.noise)}
    return CalibratedModel(known.profile.fitted, threads=threads), facts


def _yardsticks(profile: str, engines: Sequence[str], threads: int) -> dict[str, dict[str, float]]:
    """The calibrated roofline of each engine that was measured on so many threads."""
    samples = [one for one in read_samples(Path(profile)) if one.device == "cpu" and one.threads == threads]
    groups = {name: [one for one in samples if one.engine == name] for name in engines}
    return {name: fit_baseline(group) for name, group in groups.items() if group}


def _by_models(
    work: WorkGraph, engine: str, device: Device, model: CalibratedModel | None, yardstick: Mapping[str, float] | None
) -> Found:
    found: Found = {"raw roofline": RooflineModel().region(work, device, engine).time_s}
    if model is None:
        return found
    estimate = model.region(work, device, engine)
    found["model"] = {
        "time_s": estimate.time_s,
        "low_s": estimate.low_s,
        "high_s": estimate.high_s,
        "provenance": estimate.provenance,
        "known": model.knows(engine),
    }
    if yardstick is not None:
        found["calibrated roofline"] = baseline_seconds(yardstick, work)
    return found


# -- torch's own -----------------------------------------------------------------------------------------------------


def _by_torch(facts: Mapping[str, Any], device: Device) -> Found:
    """What torch's RuntimeEstimator (operator-level cost model) says, in seconds; it knows no engines."""
    try:
        from torch.distributed._tools.runtime_estimator import RuntimeEstimator

        region = region_of(facts)
        mode = next(one.fake_mode for one in region.example_inputs if isinstance(one, torch.Tensor))
        estimator = RuntimeEstimator()
        with _peaks(device), mode, torch.no_grad(), estimator(estimate_mode_type="operator-level-cost-model"):
            region.gm(*region.example_inputs)
    except Exception as error:  # noqa: BLE001 - it is a private part of torch; what it cannot do is told
        return {"failed": first_line(error)}
    return {"time_s": estimator.total_runtime * 1e-3}


@contextlib.contextmanager
def _peaks(device: Device) -> Iterator[None]:
    """Tell torch's estimator this machine's peak and bandwidth, which it reads off a GPU else."""
    module = "torch.utils._runtime_estimation"
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch(f"{module}.get_device_tflops", return_value=device.peak("float32") / 1e12),
        mock.patch(f"{module}.get_gpu_dram_gbps", return_value=device.bandwidth_bytes_s / 1e9),
    ):
        yield
