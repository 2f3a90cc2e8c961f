"""The bench of what looks at weights cost: that it measures what it says, not what it finds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.engines import weights
from bench.harness.harness import Report, parse, parser
from djinn_fx.engines.bound.write_protection import table
from djinn_fx.engines.packed.speed import ProductSpeed


def test_every_bar_has_a_figure_from_as_many_looks_as_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LAYERS", 2)
    # Measured on a busy machine packing may not pay, and then nothing is looked at.
    monkeypatch.setattr(ProductSpeed, "best", lambda self, shape: "onednn")
    report = Report("weights", parse(parser("", runs=1), ["--quick"]))
    weights.looks(report, 1_000_000, 1)
    weights.calls(report, width=128, count=4)
    content = report.content()
    names = ["compared"] if table() is None else ["protected", "compared"]
    assert set(content["bars"]) == {f"share of a call, {name}" for name in names}
    assert all(bar["value"] > 0 for bar in content["bars"].values())
    for name in names:
        assert len(content["measurements"][f"look, {name}"]["samples"]) == 4
        assert f"watch {name}" in content["measurements"]
