"""Two days of ServeGen's language models as requests: rates from its traces, lengths from its histograms.

Each client sends a Poisson process at its window's rate, scaled down; a request's time is its output tokens over a rate
of the model that is ours. Models' sizes are ours too: the data names none.
"""

from __future__ import annotations

import ast
import csv
import json
import random
from pathlib import Path

import numpy as np

from djinn_fx.solvers.deployment.problem import Cluster, Model, Problem, Traffic, Workflow

#: Gigabytes, devices, tokens a second.
MODELS = {"m-large": (142, 4, 30.0), "m-mid": (64, 2, 45.0), "m-small": (15, 1, 80.0)}
WINDOW_S, DAY_S, CLIENTS = 600, 86_400, 3


def day(
    folder: Path, number: int, requests: int, devices: int = 16, shrink: float | None = None
) -> tuple[Problem, float]:
    """One day's requests, and by what its hours were shortened.

    Args:
        folder: ServeGen's ``data``.
        number: 1 or 2.
        requests: about how many there are on the first day.
        devices: in servers of four.
        shrink: by what hours are shortened; None: so that devices are three quarters busy.
    """
    chance = random.Random(f"servegen {number}")
    rows: list[tuple[float, int, float]] = []
    windows = [
        (name, *_client(path))
        for name in MODELS
        for path in sorted((folder / "language" / name).glob("*-trace.csv"))[:CLIENTS]
    ]
    total = sum(rate * WINDOW_S for _, trace, _ in windows for at, rate in trace if at // DAY_S == 1)
    for kind, name in enumerate(MODELS):
        for _, trace, lengths in (one for one in windows if one[0] == name):
            for at, rate in trace:
                if at // DAY_S != number or not rate:
                    continue
                count = _poisson(chance, rate * WINDOW_S * requests / total)
                tokens = lengths.get(at) or next(iter(lengths.values()))
                picked = chance.choices(tokens[0], tokens[1], k=count)
                rows += [(at + chance.uniform(0, WINDOW_S), kind, n / MODELS[name][2]) for n in picked]
    rows.sort()
    models = tuple(Model(gigabytes * 10**9, gang) for gigabytes, gang, _ in MODELS.values())
    area = sum(seconds * models[kind].gang for _, kind, seconds in rows) / devices
    start = rows[0][0]
    shrink = shrink or area / 0.75 / DAY_S
    traffic = Traffic(
        np.array([(at - start) * shrink for at, _, _ in rows]),
        np.array([kind for _, kind, _ in rows], np.int64),
        np.arange(len(rows) + 1, dtype=np.int64),
        np.array([seconds for _, _, seconds in rows]),
    )
    workflows = tuple(Workflow((kind,), ((),)) for kind in range(len(models)))
    return Problem(models, workflows, Cluster.uniform(devices, 4, 80 * 10**9), traffic), shrink


def _client(path: Path) -> tuple[list[tuple[int, float]], dict[int, tuple[list[int], list[float]]]]:
    """Rates by window, and lengths of answers by window."""
    with path.open(newline="") as stream:
        trace = [(int(float(row[0])), float(row[1])) for row in csv.reader(stream)]
    data = json.loads(path.with_name(path.name.replace("-trace.csv", "-dataset.json")).read_text())
    lengths = {}
    for at, fields in data.items():
        shares = ast.literal_eval(fields.get("output_tokens", "{}"))
        if shares:
            lengths[int(float(at))] = (list(shares), list(shares.values()))
    return trace, lengths


def _poisson(chance: random.Random, mean: float) -> int:
    count, at = 0, chance.expovariate(1.0)
    while at < mean:
        count += 1
        at += chance.expovariate(1.0)
    return count
