"""Measured GPU kernels in the form of NeuSight's data: a folder with devices/, ops/, graphs/ and models/.

devices/NAME.json are data sheets (Mem_Bw in GB/s, SingleFLOPs in GFLOP/s, Freq in MHz, L2Cache in MiB, Num_Sm,
Core_Per_SM); ops/{train,test}/*.csv have OPName, Device, Latency in milliseconds and sizes; graphs/DEVICE/*.json have
e2e_latency in milliseconds. Products are B, M, N, K with N the depth: (B, M, N) times (B, N, K). All times are
of PyTorch's eager float32 kernels without TF32, the mean of the best 5 of 25 runs, launch included.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.cost.gpu_fit import Samples
from djinn_fx.costmodels.laws.gpu_laws import GpuSpec, base_share

#: Which law a file's ops obey.
FILES = {"linear": "linear", "bmm": "bmm", "elem": "elementwise", "softmax": "softmax", "ln": "norm"}
#: Names of whole models: model, mode, sequence length, batch, and whether it was compiled.
_NAME = re.compile(r"[^-]+-(inf|train)-\d+-\d+(-fusion)?$")
BINARY = ("add", "mul", "div", "pow")


@dataclass(frozen=True)
class Measured:
    """One device's samples of one law, those of the test files marked.

    Attributes:
        samples: sizes and seconds.
        is_test: shape (samples,).
    """

    samples: Samples
    is_test: np.ndarray

    def test(self) -> Samples:
        """What errors are stated for: the test files' samples, or all where there are none."""
        return self.samples.pick(np.flatnonzero(self.is_test)) if self.is_test.any() else self.samples


@dataclass(frozen=True)
class Graph:
    """One whole model's measured time.

    Attributes:
        device: name as in the data sheets.
        name: e.g. ``bert_large-inf-512-16``.
        config: the model's configuration.
        seconds: end to end, forward and (in training) backward.
    """

    device: str
    name: str
    config: Mapping[str, Any]
    seconds: float

    @property
    def parts(self) -> tuple[str, str, int, int, bool]:
        """Model, ``inf`` or ``train``, sequence length, batch, whether it was compiled (fused)."""
        model, mode, length, batch, *rest = self.name.split("-")
        return model, mode, int(length), int(batch), rest == ["fusion"]


def find(folder: Path) -> Path | None:
    """The data below a folder: itself, or its cost/neusight."""
    for place in (folder, folder / "cost" / "neusight", folder / "neusight"):
        if (place / "devices").is_dir() and (place / "ops").is_dir():
            return place
    return None


def specs(folder: Path) -> dict[str, GpuSpec]:
    """Data sheets by device name."""
    found = {}
    for path in sorted((folder / "devices").glob("*.json")):
        sheet = json.loads(path.read_text(encoding="utf-8"))
        name = sheet["Device"].strip()
        found[name] = GpuSpec(
            name=name,
            flops=sheet["SingleFLOPs"] * 1e9,
            bandwidth=sheet["Mem_Bw"] * 1e9,
            processors=int(sheet["Num_Sm"]),
            cores=int(sheet["Core_Per_SM"]),
            clock_hz=sheet["Freq"] * 1e6,
            cache_bytes=sheet["L2Cache"] * 2**20,
            base_share=base_share(name),
        )
    return found


def operations(folder: Path) -> dict[str, dict[str, Measured]]:
    """Samples by law and device."""
    sheets = specs(folder)
    rows: dict[tuple[str, str], list[tuple[list[float], float, bool]]] = defaultdict(list)
    for part in ("train", "test"):
        for file, law in FILES.items():
            path = folder / "ops" / part / f"{file}.csv"
            for row in _rows(path):
                if row["Device"].strip() in sheets:
                    entry = (_sizes(law, row), float(row["Latency"]) * 1e-3, part == "test")
                    rows[law, row["Device"].strip()].append(entry)
    found: dict[str, dict[str, Measured]] = {law: {} for law in FILES.values()}
    for (law, device), entries in sorted(rows.items()):
        sizes, seconds, is_test = zip(*entries, strict=True)
        samples = Samples(sheets[device], np.array(sizes, dtype=float), np.array(seconds))
        found[law][device] = Measured(samples, np.array(is_test))
    return found


def _rows(path: Path) -> Iterable[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("Latency")]


def _sizes(law: str, row: Mapping[str, str]) -> list[float]:
    if law in ("linear", "bmm"):
        return [float(row[name]) for name in "BMNK"]
    if law == "elementwise":
        elements = float(row["B"]) * float(row["H"])
        return [elements, 2.0 if row["OPName"] in BINARY else 1.0, float(row["OPName"] == "powu")]
    return [float(row["B"]), float(row["H"])]


def graphs(folder: Path) -> list[Graph]:
    """Whole models on one device, those whose configuration is there; runs over several devices are left out."""
    found = []
    names = {name.replace(" ", "_"): name for name in specs(folder)}
    for path in sorted((folder / "graphs").glob("*/*.json")):
        config = folder / "models" / f"{path.stem.split('-')[0]}.json"
        if path.parent.name in names and config.exists() and _NAME.match(path.stem):
            times = json.loads(path.read_text(encoding="utf-8"))
            found.append(
                Graph(
                    names[path.parent.name],
                    path.stem,
                    json.loads(config.read_text(encoding="utf-8")),
                    float(times["e2e_latency"]) * 1e-3,
                )
            )
    return found
