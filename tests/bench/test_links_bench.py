"""The links' bench: its ends send, relay and serialise; it predicts before it times; its bars come from its rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report
from bench.links import links
from bench.links.links_child import MESSAGE, PLAIN, RELAY
from djinn_fx.hardware.topology.links import Serialisation

COST = Serialisation(bytes_s=1e9, fixed_s=1e-5, source="test")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[links.Bench]:
    monkeypatch.setattr(links, "KNOWN", (1, 1000, 100_000))
    made = links.Bench(quick=True, repeats=1, spaces=None)
    yield made
    made.close()


@pytest.mark.parametrize("mode", [PLAIN, MESSAGE])
def test_transfers_arrive_after_they_began(bench: links.Bench, mode: int) -> None:
    command = [[*bench.place("127.0.0.1"), nbytes, mode, None] for nbytes in (1, 300_000)]
    assert all(seconds > 0 for seconds in bench.drivers["host"].seconds(command, 3))


def test_a_relay_ends_when_the_last_one_has_it(bench: links.Bench) -> None:
    place = bench.place("127.0.0.1")
    relayed = bench.drivers["host"].seconds([[*place, 50_000, RELAY, place]], 2)
    assert len(relayed) == 2
    assert min(relayed) > 0


def test_everything_is_predicted_without_being_timed(bench: links.Bench) -> None:
    topology, nominal = bench.build(COST)
    timed: list[object] = []
    bench.drivers["host"].seconds = lambda *given: timed.append(given) or []  # type: ignore[method-assign]
    bench.predict(topology, nominal, COST)
    assert {case.name for case in bench.cases} == {"copy in memory", "TCP on this host", "with serialising"}
    assert all(case.predicted[0] > 0 for case in bench.cases)
    assert timed == []


def test_bars_come_from_the_rows() -> None:
    arguments = argparse.Namespace(quick=True, json=None, strict=False)
    report = Report("links", arguments)
    rows = [
        (
            links.Case(name="x", transfers=[], predicted=(p, 0.9 * p, 1.1 * p), nominal=n, command=None, sender=""),
            [1.0] * 5,
            1.0,
        )
        for p, n in ((1.02, 1.5), (1.04, None), (1.5, 1.3))
    ]
    links._summary(report, rows)
    bars = report.content()["bars"]
    assert bars["median error of predicted transfer times"]["value"] == pytest.approx(0.04)
    assert bars["median error by configured rate alone"]["value"] == pytest.approx(0.4)
    assert bars["coverage of the 80 % interval, lower"]["value"] == pytest.approx(2 / 3)
