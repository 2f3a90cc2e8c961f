"""The bench of explain beside measurements: its rows and bars, from reports made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.explain import real
from bench.harness.harness import Report, parse, parser


def scenario(foretold_s: float, engine: str = "packed") -> dict[str, Any]:
    time = {"engine": engine, "time_s": foretold_s, "low_s": 0.8 * foretold_s, "high_s": 1.2 * foretold_s}
    return {"name": "", "graphs": [{"times": [{**time, "provenance": "calibrated"}], "cost": {"time_s": 9.0}}]}


def run(call_s: float | None, engine: str = "packed", foretold: int = 100, live: int | None = 95) -> dict[str, Any]:
    check = {"equal": True, "call_s": call_s, "eager_s": 1.0, "foretold_bytes": foretold, "live_bytes": live}
    return {"name": "", "graphs": [{"builds": [{"engine": engine}]}], "check": check}


def row(foretold_s: float, call_s: float | None, live: int | None = 95) -> dict[str, Any]:
    one = run(call_s, live=live)
    return {**real._row("a model", scenario(foretold_s), one), **real._peaks(one["check"])}


def test_what_was_foretold_is_of_the_engine_that_serves() -> None:
    found = real._row("a model", scenario(0.5), run(0.4))
    assert (found["foretold_s"], found["call_s"], found["engines"]) == (0.5, 0.4, ["packed"])
    assert found["interval_s"] == [0.4, 0.6]


def test_bars(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = {"12 layers": {"ops": 900, "seconds": 9.0, "rss": 600_000_000}}
    rows = [row(1.0, 1.25), row(1.0, 1.0), row(1.0, 4.0), row(1.0, None, live=None)]
    report = Report("explain_real", parse(parser("a bench"), []))
    real._bars(report, rows, terminal, calibrated=True)
    bars = report.content()["bars"]
    assert bars["median error of times"]["value"] == pytest.approx(0.2)
    assert bars["share of times in their 80 % interval"]["value"] == pytest.approx(1 / 3)
    assert bars["largest error of a peak"]["value"] == pytest.approx(100 / 95 - 1)
    assert bars["largest resident set of a report, GB"]["value"] == 0.6
    real._bars(report, rows, terminal, calibrated=False)
    assert report.content()["bars"]["median error of times"]["holds"] is None
    capsys.readouterr()


def test_every_example_is_measured() -> None:
    examples = {path.stem for path in (Path(real.ROOT) / "examples").glob("*.py")}
    assert set(real.EXAMPLES) == examples - {"demo"}
