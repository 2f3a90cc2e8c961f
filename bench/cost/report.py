"""How far predictions are from measured times: the figures of bench/cost/accuracy.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cost.work import by_pair, time_of
from bench.harness.harness import Report, table

Found = dict[str, Any]
Pair = tuple[str, str]

#: What predictions are held against, besides the model's.
BASELINES = ("raw roofline", "calibrated roofline", "torch's estimator")


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How far some predictions are from what was measured. Errors are shares of the measured time.

    Attributes:
        count: pairs of a graph and an engine.
        within_5: share of them predicted within 5 %.
        within_10: within 10 %.
        mape: mean absolute error.
        p90: of the absolute errors.
        worst: the largest.
        spearman: rank correlation of predicted and measured times; None for fewer than three pairs.
        bias: median of predicted over measured, less 1.
        coverage: share of measured times inside the 80 % interval; None without intervals.
    """

    count: int
    within_5: float
    within_10: float
    mape: float
    p90: float
    worst: float
    spearman: float | None
    bias: float
    coverage: float | None = None


def accuracy(
    predicted: Sequence[float], measured: Sequence[float], intervals: Sequence[tuple[float, float]] | None = None
) -> Accuracy:
    """The figures of some pairs.

    Raises:
        ValueError: no pairs, or not as many predictions as measurements.
    """
    if not predicted or len(predicted) != len(measured):
        raise ValueError(f"{len(predicted)} predictions for {len(measured)} measurements")
    errors = [p / m - 1 for p, m in zip(predicted, measured, strict=True)]
    sizes = sorted(abs(error) for error in errors)
    inside = [low <= m <= high for (low, high), m in zip(intervals, measured, strict=True)] if intervals else None
    return Accuracy(
        count=len(errors),
        within_5=sum(size <= 0.05 for size in sizes) / len(sizes),
        within_10=sum(size <= 0.10 for size in sizes) / len(sizes),
        mape=statistics.fmean(sizes),
        p90=float(np.quantile(sizes, 0.9)),
        worst=sizes[-1],
        spearman=spearman(predicted, measured),
        bias=statistics.median(errors),
        coverage=sum(inside) / len(inside) if inside else None,
    )


def spearman(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Rank correlation; equal values share their mean rank. None for fewer than three pairs, or if one side is flat."""
    if len(left) < 3:
        return None
    a, b = _ranks(left), _ranks(right)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray[Any, Any]:
    array = np.asarray(values, dtype=float)
    return np.asarray([(array < one).sum() + ((array == one).sum() - 1) / 2 for one in array])


def noise_floor(times: Mapping[Pair, Sequence[float]]) -> float | None:
    """The mean error of telling a process's time by the other processes'; None with one process."""
    errors = [
        abs(time_of([*seconds[:i], *seconds[i + 1 :]]) / one - 1)
        for seconds in times.values()
        if len(seconds) > 1
        for i, one in enumerate(seconds)
    ]
    return statistics.fmean(errors) if errors else None


def noise_within(times: Mapping[Pair, Sequence[float]], bound: float = 0.10) -> float | None:
    """Share of processes whose time the others' tell within a bound: about what a model can reach at best."""
    hits = [
        abs(time_of([*seconds[:i], *seconds[i + 1 :]]) / one - 1) <= bound
        for seconds in times.values()
        if len(seconds) > 1
        for i, one in enumerate(seconds)
    ]
    return sum(hits) / len(hits) if hits else None


# -- one set of predictions ------------------------------------------------------------------------------------------


def score(predictions: Mapping[str, Any], times: Mapping[Pair, Sequence[float]]) -> dict[str, dict[str, Accuracy]]:
    """By predictor (``model`` and :data:`BASELINES`) and engine (and ``all``): the figures of what was measured."""
    found: dict[str, dict[str, Accuracy]] = {}
    engines = sorted({engine for _, engine in times})
    for predictor in ("model", *BASELINES):
        for engine in (*engines, "all"):
            pairs = [pair for pair in times if engine in ("all", pair[1])]
            told = [(pair, one) for pair in pairs if (one := _prediction(predictions, predictor, pair)) is not None]
            if told:
                seconds = [time_of(times[pair]) for pair, _ in told]
                intervals = [(low, high) for _, (_, low, high) in told] if predictor == "model" else None
                figures = accuracy([one[0] for _, one in told], seconds, intervals)
                found.setdefault(predictor, {})[engine] = figures
    return found


def _prediction(predictions: Mapping[str, Any], predictor: str, pair: Pair) -> tuple[float, float, float] | None:
    graph = predictions["graphs"].get(pair[0])
    if graph is None or pair[1] not in graph["engines"]:
        return None
    if predictor == "torch's estimator":  # it knows ops that run one by one
        value = graph["torch"].get("time_s") if pair[1] == "eager" else None
        return None if value is None else (value, value, value)
    told = graph["engines"][pair[1]].get(predictor)
    if told is None:
        return None
    return (told["time_s"], told["low_s"], told["high_s"]) if isinstance(told, dict) else (told, told, told)


def show(title: str, scores: Mapping[str, Mapping[str, Accuracy]]) -> None:
    """Print the figures as a table."""
    rows = []
    for predictor, by_engine in scores.items():
        for engine, one in by_engine.items():
            shares = [one.within_5, one.within_10, one.mape, one.p90, one.worst, one.bias]
            cells = [f"{100 * share:.1f}" for share in shares]
            rank = "" if one.spearman is None else f"{one.spearman:.4f}"
            covered = "" if one.coverage is None else f"{100 * one.coverage:.0f}"
            rows.append([f"{predictor}, {engine}", one.count, *cells, rank, covered])
    headers = ["predictor, engine", "pairs", "±5 %", "±10 %", "MAPE", "p90", "max", "bias", "Spearman", "coverage %"]
    print(f"\n{title}\n{table(headers, rows)}", flush=True)


def bars(report: Report, scores: Mapping[str, Mapping[str, Accuracy]], noise: float | None) -> None:
    """The bars of the model over all engines that were calibrated; without a model they are not measured."""
    whole = scores.get("model", {}).get("all")
    report.bar("share within 10 %", whole.within_10 if whole else None, 0.90, ">=")
    report.bar("MAPE", whole.mape if whole else None, 0.05)
    report.bar("MAPE over noise floor", whole.mape / noise if whole and noise else None, 1.5)
    report.bar("Spearman", whole.spearman if whole else None, 0.99, ">=")
    report.bar("interval coverage, at least", whole.coverage if whole else None, 0.75, ">=")
    report.bar("interval coverage, at most", whole.coverage if whole else None, 0.85)


def samples_of(measured: Sequence[Found], graphs: Sequence[str], threads: int = 0) -> list[Found]:
    """Every time of every process, for the report's JSON: one entry a graph and engine."""
    return [
        {"graph": graph, "engine": engine, "times_s": seconds}
        for (graph, engine), seconds in sorted(by_pair(measured, graphs, threads).items())
    ]
