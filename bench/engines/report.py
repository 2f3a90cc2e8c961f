"""What the figures of the engines' bench mean: tables, ratios and bars. A case is known as ``model/way xBATCH``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.harness.harness import Ratio, Report, ratio, table

#: One engine by itself.
PEERS = ("eager", "inductor", "openvino", "onnxruntime")
#: Djinn as users have it; steady figures are its.
OURS = "djinn"
BLOCKING = "djinn-blocking"
#: The latter with products that may round to bfloat16, and that whose weights may be rounded to 8 bits as well.
BF16 = "djinn-bf16"
INT8 = "djinn-int8"
#: What each of these lets djinn round: the setting ``precision``.
PRECISION = {BF16: "allow-bf16", INT8: "allow-int8-weights"}

OVER_INDUCTOR = 2.2
BF16_OVER_F32 = 1.6
OF_BEST_PEER_EACH = 0.97
OF_BEST_PEER = 1.1
SERVES_OF_COLD = 0.5
SAVED_OF_EAGER = 2.0
DISPATCH_US = 10.0
MODELS = 20

Found = dict[str, Any]
Cases = Mapping[str, Sequence[Found]]


def samples(runs: Sequence[Found], side: str) -> list[float]:
    """Seconds a call, one figure a block, over all runs; empty if a run has none."""
    series = [run["sides"].get(side, {}).get("samples") for run in runs]
    return [one for blocks in series if blocks for one in blocks] if all(series) else []


def first(runs: Sequence[Found], side: str, what: str = "cold") -> float | None:
    """The median over the runs of a figure of first results: ``cold``, ``ready``, ``load`` or ``first``."""
    values = []
    for run in runs:
        one = run["sides"].get(side, {})
        inner = {"cold": one.get("cold"), "ready": one.get("ready", {}).get("seconds")}
        saved = one.get("saved", {})
        value = inner.get(what, saved.get(what))
        if value is not None:
            values.append(value)
    return statistics.median(values) if values else None


def speed(runs: Sequence[Found], side: str, than: str) -> Ratio | None:
    """How many times as fast a side is as another, block by block; None if one of them has no calls."""
    mine, theirs = samples(runs, side), samples(runs, than)
    return ratio(theirs, mine) if mine and theirs else None


def best_peer(runs: Sequence[Found]) -> str | None:
    """The fastest single engine."""
    medians = {peer: statistics.median(found) for peer in PEERS if (found := samples(runs, peer))}
    return min(medians, key=medians.__getitem__, default=None)


def geomean(values: Iterable[float]) -> float | None:
    """The geometric mean; None of nothing."""
    logs = [math.log(one) for one in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def wrong(runs: Sequence[Found], side: str) -> int:
    """How many of a side's answers were wrong, that of its saved callable included."""
    found = [run["sides"].get(side, {}) for run in runs]
    checks = [one.get("check", {}) for side in found for one in (side, side.get("saved", {}))]
    return sum(bool(check.get("wrong")) for check in checks)


def failures(runs: Sequence[Found]) -> dict[str, str]:
    """Why a side has no figures, by side."""
    return {side: one["failed"] for run in runs for side, one in run["sides"].items() if "failed" in one}


def line(found: Found) -> str:
    """A case in one line, as it comes."""
    texts = []
    for side, one in found["sides"].items():
        blocks = one.get("samples")
        texts.append(f"{side} {1e3 * statistics.median(blocks):.2f}" if blocks else f"{side} -")
    return "ms " + ", ".join(texts)


# -- telling ----------------------------------------------------------------------------------------------------------


def tell(cases: Cases, report: Report) -> None:
    """Print the tables, and put every sample into the report."""
    sides = list(dict.fromkeys(side for runs in cases.values() for run in runs for side in run["sides"]))
    for case, runs in cases.items():
        report.fact(case, runs)
        for side in sides:
            if samples(runs, side):
                report.measured(f"{case} steady {side}", samples(runs, side), "s")
        noise = speed(runs, "eager again", "eager")
        peer = best_peer(runs)
        for name, other in (("Inductor", "inductor"), ("the best peer", peer)):
            found = speed(runs, OURS, other) if other else None
            if found is not None:
                report.ratio(f"{case} djinn over {name}", found, noise)
    print("\nSteady calls, ms\n" + table(*_steady(cases, sides)))
    print("\nFirst results, seconds\n" + table(*_first(cases, sides)))
    print("\nAnswers: distance from float64 as a share of the largest value; memory of the process, MB\n")
    print(table(*_answers(cases, sides)), flush=True)
    for case, runs in cases.items():
        for side, why in failures(runs).items():
            print(f"left out: {case}, {side}: {why.strip().splitlines()[0][:200]}")
        for run in runs:
            for side, one in run["sides"].items():
                if "failed" in one.get("saved", {}):
                    print(f"cannot be saved: {case}, {side}: {one['saved']['failed'].strip().splitlines()[0][:200]}")
        for run in runs:
            for side, one in run["sides"].items():
                for text in one.get("holds", {}).get("refused", []):
                    print(f"refused: {case}, {side}: {text}")


def _steady(cases: Cases, sides: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    headers = ["case", "M", *sides, "of Inductor", "of the best", "which", "noise", "runs on"]
    rows = []
    for case, runs in cases.items():
        peer = best_peer(runs)
        rows.append([
            case, f"{runs[0]['facts']['parameters'] / 1e6:.0f}",
            *(_ms(samples(runs, side)) for side in sides),
            _times(speed(runs, OURS, "inductor")), _times(speed(runs, OURS, peer) if peer else None), peer or "",
            _spread(speed(runs, "eager again", "eager")), _engines(runs),
        ])  # fmt: skip
    return headers, rows


def _first(cases: Cases, sides: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    headers = ["case", *sides, "djinn ready", "of Inductor's", "saved: load", "saved: first call", "of eager's"]
    rows = []
    for case, runs in cases.items():
        saved, eager = _saved_first(runs), first(runs, "eager")
        rows.append([
            case, *(_s(first(runs, side)) for side in sides), _s(first(runs, OURS, "ready")),
            _plain(_quotient(first(runs, OURS, "ready"), first(runs, "inductor"))),
            _s(_saved(runs, "load")), _s(saved), _plain(_quotient(saved, eager)),
        ])  # fmt: skip
    return headers, rows


def _answers(cases: Cases, sides: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    headers = ["case", *(f"{side}{what}" for side in sides for what in ("", " MB"))]
    rows = []
    for case, runs in cases.items():
        row = [case]
        for side in sides:
            one = runs[0]["sides"].get(side, {})
            check, rss = one.get("check"), one.get("holds", {}).get("rss")
            row.append("" if check is None else f"{check['to_float64']:.0e}" + " WRONG" * bool(wrong(runs, side)))
            row.append("" if rss is None else f"{rss / 1e6:.0f}")
        rows.append(row)
    return headers, rows


def _engines(runs: Sequence[Found]) -> str:
    found = runs[0]["sides"].get(OURS, {}).get("holds", {}).get("engines", {})
    return " ".join(f"{name}:{count}" for name, count in found.items())


def _saved(runs: Sequence[Found], what: str) -> float | None:
    found = (first(runs, side, what) for side in (BLOCKING, OURS))
    return next((one for one in found if one is not None), None)


def _saved_first(runs: Sequence[Found]) -> float | None:
    return _saved(runs, "first")


def _quotient(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _ms(series: Sequence[float]) -> str:
    return f"{1e3 * statistics.median(series):.2f}" if series else "-"


def _s(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _times(found: Ratio | None) -> str:
    return "" if found is None else f"{found.median:.2f}"


def _spread(found: Ratio | None) -> str:
    return "" if found is None else f"{found.low:.2f}-{found.high:.2f}"


# -- bars -------------------------------------------------------------------------------------------------------------


def bars(cases: Cases, dispatch: Found | None, report: Report, *, whole: bool) -> None:
    """Hold the figures against what was promised. ``whole``: every model was asked for."""
    over, best, serves, blocking, saved = [], [], [], [], []
    for runs in cases.values():
        peer = best_peer(runs)
        for values, found in ((over, speed(runs, OURS, "inductor")), (best, speed(runs, OURS, peer) if peer else None)):
            if found is not None:
                values.append(found.median)
        cold = first(runs, "inductor")
        for values, share in (
            (serves, _quotient(first(runs, OURS, "ready"), cold)),
            (blocking, _quotient(first(runs, BLOCKING, "ready"), cold)),
            (saved, _quotient(_saved_first(runs), first(runs, "eager"))),
        ):
            if share is not None:
                values.append(share)
    report.fact("time until the best engine serves, of Inductor's cold time", {
        "background, geometric mean": geomean(serves), "blocking, geometric mean": geomean(blocking),
        "blocking, largest": max(blocking, default=None),
    })  # fmt: skip
    report.bar("auto_over_inductor_geomean", geomean(over), OVER_INDUCTOR, ">=")
    report.bar("auto_over_best_peer_smallest", min(best, default=None), OF_BEST_PEER_EACH, ">=")
    report.bar("auto_over_best_peer_geomean", geomean(best), OF_BEST_PEER, ">=")
    report.bar("best_serves_of_inductor_cold_largest", max(serves, default=None), SERVES_OF_COLD)
    report.bar("saved_first_call_of_eager_largest", max(saved, default=None), SAVED_OF_EAGER)
    report.bar("dispatch_us_a_region", dispatch_us(dispatch, report), DISPATCH_US)
    sides = (OURS, BLOCKING)
    answered = any("check" in run["sides"].get(s, {}) for runs in cases.values() for run in runs for s in sides)
    count = sum(wrong(runs, side) for runs in cases.values() for side in sides)
    report.bar("wrong", count if answered else None, 0, "==")
    failed = sum(side in failures(runs) for runs in cases.values() for side in sides)
    report.bar("djinn_failed", failed, 0, "==")
    _rounded_bars(cases, report)
    models = {case.partition("/")[0] for case, runs in cases.items() if samples(runs, OURS)}
    report.bar("models", len(models) if whole else None, MODELS, ">=")


def _rounded_bars(cases: Cases, report: Report) -> None:
    """Of those that may round. How fast 8 bits are depends on the way of calling: that is told, not promised."""
    for side, name in ((BF16, "bf16"), (INT8, "int8")):
        if not any(side in run["sides"] for runs in cases.values() for run in runs):
            continue
        over = {
            case: found.median for case, runs in cases.items() if (found := speed(runs, side, BLOCKING)) is not None
        }
        report.fact(f"{name} over float32", over)
        if side == BF16:
            report.bar("bf16_over_f32_smallest", min(over.values(), default=None), BF16_OVER_F32, ">=")
        count = sum(wrong(runs, side) for runs in cases.values())
        report.bar(f"{name}_wrong", count if over else None, 0, "==")


def dispatch_us(found: Found | None, report: Report) -> float | None:
    """Microseconds that the choice between engines adds to a call of one region; None if it was not measured."""
    if found is None or "failed" in found:
        if found is not None:
            report.fact("dispatch", found)
            print(f"\ndispatch: not measured: {found['failed'].strip().splitlines()[-1][:200]}")
        return None
    for name in ("auto", "named", "named again"):
        report.measured(f"dispatch {name}", found[name], "us")
    over = statistics.median(a - b for a, b in zip(found["auto"], found["named"], strict=True))
    noise = statistics.median(a - b for a, b in zip(found["named again"], found["named"], strict=True))
    report.fact("dispatch", {"engine": found["engine"], "added_us": over, "noise_us": noise})
    print(f"\ndispatch: {over:+.2f} us a region over {found['engine']} by name (noise {noise:+.2f} us)")
    return over
