"""The benches' shared helpers. Nothing here asserts a time."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.compiling import compile_time, srg_speed
from bench.harness import harness, measuring, models
from bench.harness.children import ROOT
from bench.harness.harness import ChildFailedError, Journal, Report, bar, call_child, fresh_caches, parse, parser


def arguments(*argv: str) -> argparse.Namespace:
    return parse(parser("A bench.", runs=5), argv)


class TestArguments:
    def test_quick_runs_once(self) -> None:
        assert arguments("--quick").runs == 1
        assert arguments().runs == 5
        assert arguments("--quick", "--runs", "2").runs == 2

    def test_no_run_at_all_is_refused(self) -> None:
        with pytest.raises(SystemExit):
            arguments("--runs", "0")

    def test_resume_needs_a_file(self) -> None:
        with pytest.raises(SystemExit):
            arguments("--resume")

    def test_compile_time_quick_takes_the_smallest_decoder(self) -> None:
        assert compile_time._arguments(["--quick"]).models == ("llama-4",)
        assert compile_time._arguments(["--models", "llama-24,bert"]).models == ("llama-24", "bert")
        assert compile_time._arguments([]).models == models.MODELS

    def test_compile_time_refuses_an_unknown_model(self) -> None:
        with pytest.raises(SystemExit):
            compile_time._arguments(["--models", "bart"])


class TestStatistics:
    @pytest.mark.parametrize(("count", "low", "high"), [(1, 0, 0), (3, 0, 2), (6, 0, 5), (15, 3, 11)])
    def test_the_noise_floor_is_where_the_median_is_19_times_in_20(self, count: int, low: int, high: int) -> None:
        """By a table of order statistics for the median."""
        pairs = [0.9 + place / 64 for place in range(count)]
        found = measuring.floor(measuring.ratio(pairs[::-1], [1.0] * count))
        assert found == max(pairs[high], 1 / pairs[low])

    def test_ratio_is_the_median_of_pairs_not_the_ratio_of_medians(self) -> None:
        found = harness.ratio([1.0, 20.0, 3.0], [2.0, 10.0, 3.0])
        assert found.pairs == (0.5, 2.0, 1.0)
        assert (found.median, found.low, found.high) == (1.0, 0.5, 2.0)

    def test_a_machine_that_slows_down_favours_nobody(self) -> None:
        assert harness.ratio([1.0, 4.0], [2.0, 8.0]).median == 0.5

    def test_unpaired_samples_are_refused(self) -> None:
        with pytest.raises(ValueError):
            harness.ratio([1.0, 2.0], [1.0])
        with pytest.raises(ValueError):
            harness.ratio([], [])

    def test_noise_of_a_series_is_each_sample_over_the_next(self) -> None:
        found = harness.successive([2.0, 1.0, 4.0])
        assert found is not None
        assert found.pairs == (2.0, 0.25)
        assert harness.successive([1.0]) is None

    def test_cases_take_turns(self) -> None:
        order: list[str] = []

        def called(name: str) -> int:
            order.append(name)
            return len(order)

        cases = {name: functools.partial(called, name) for name in "AB"}
        found = harness.interleave(cases, 3)
        assert order == list("ABBAAB")
        assert found == {"A": [1, 4, 5], "B": [2, 3, 6]}

    def test_as_many_times_as_calls(self) -> None:
        calls: list[int] = []
        assert len(measuring.time_calls(lambda: calls.append(1), 7)) == len(calls) == 7


class TestBars:
    @pytest.mark.parametrize(
        ("value", "bound", "rule", "holds"),
        [
            (0.5, 0.5, "<=", True),
            (0.51, 0.5, "<=", False),
            (2.0, 1.5, ">=", True),
            (0, 0, "==", True),
            (1, 0, "==", False),
            (None, 0.5, "<=", None),
        ],
    )
    def test_rules(self, value: float | None, bound: float, rule: str, holds: bool | None) -> None:
        assert bar(value, bound, rule).holds is holds

    def test_report_as_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "new" / "report.json"
        report = Report("example", arguments("--json", str(file)))
        assert report.measured("call", [3.0, 1.0, 2.0], "s") == 2.0
        report.ratio("a over b", harness.ratio([1.0], [2.0]), None)
        report.bar("speed", 0.7, 0.5)
        report.bar("absent", None, 0.5)
        assert report.finish() == 0
        written = json.loads(file.read_text())
        assert written["schema"] == harness.SCHEMA
        assert written["bars"] == {
            "speed": {"value": 0.7, "bound": 0.5, "holds": False, "rule": "<="},
            "absent": {"value": None, "bound": 0.5, "holds": None, "rule": "<="},
        }
        assert written["measurements"]["call"] == {"unit": "s", "median": 2.0, "samples": [3.0, 1.0, 2.0]}
        assert written["ratios"]["a over b"]["median"] == 0.5
        assert written["device"]["cpu"]
        assert written["device"]["cores"] >= 1
        assert {"python", "torch", "djinn_fx", "compiler"} <= written["versions"].keys()
        assert written["load_average"].keys() == {"start", "end"}
        assert "DOES NOT HOLD" in capsys.readouterr().out

    def test_strict_fails_on_a_bar_that_does_not_hold_only(self) -> None:
        report = Report("example", arguments("--strict"))
        report.bar("absent", None, 0.5)
        assert report.finish() == 0
        report.bar("speed", 0.7, 0.5)
        assert report.finish() == 1


class TestJournal:
    def test_goes_on_where_it_was_stopped(self, tmp_path: Path) -> None:
        file = str(tmp_path / "out.json")
        first = Journal(arguments("--json", file))
        assert first.once("one", lambda: {"seconds": 1.0}) == {"seconds": 1.0}
        resumed = Journal(arguments("--json", file, "--resume"))
        assert resumed.once("one", lambda: pytest.fail("done already")) == {"seconds": 1.0}
        anew = Journal(arguments("--json", file))
        assert anew.once("one", lambda: 2) == 2
        anew.done()
        assert list(tmp_path.iterdir()) == []

    def test_a_line_cut_short_is_left_out(self, tmp_path: Path) -> None:
        file = tmp_path / "out.json"
        Journal(arguments("--json", str(file))).once("one", lambda: 1)
        with (tmp_path / "out.json.part").open("a") as journal:
            journal.write('{"step": "two", "resu')
        assert Journal(arguments("--json", str(file), "--resume")).once("two", lambda: 2) == 2

    def test_a_step_that_failed_is_not_kept(self, tmp_path: Path) -> None:
        file = str(tmp_path / "out.json")
        with pytest.raises(ZeroDivisionError):
            Journal(arguments("--json", file)).once("one", lambda: 1 // 0)
        assert Journal(arguments("--json", file, "--resume")).once("one", lambda: 3) == 3


class TestChildren:
    def test_result_and_caches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DJINN_ENGINE", "eager")
        with fresh_caches() as caches:
            found = call_child("os:getenv", {"key": "DJINN_CACHE_DIR"}, caches)
            assert found == str(caches.djinn)
            assert call_child("os:getenv", {"key": "DJINN_ENGINE"}, caches) is None
            assert call_child("os:getenv", {"key": "A"}, caches, environment={"A": "b"}) == "b"
        assert not caches.home.exists()

    def test_a_checkout_has_its_bytecode_as_an_installed_package_has(self) -> None:
        with fresh_caches():
            for file in ("djinn_fx/backend.py", "passes/estimate_cost.py"):
                assert (ROOT / file).exists()
                assert Path(cache_from_source(str(ROOT / file))).exists()

    def test_failure_tells_why(self) -> None:
        with fresh_caches() as caches, pytest.raises(ChildFailedError, match="FileNotFoundError"):
            call_child("os:stat", {"path": "/no/such/file"}, caches)


def test_table_is_plain_text_in_columns() -> None:
    assert harness.table(["name", "ms"], [["a", 10], ["longer", 2]]) == "name    ms\n------  --\na       10\nlonger   2"


def test_srg_speed_measures_every_step() -> None:
    gm = srg_speed.loop(24)
    assert srg_speed.op_count(gm) == 24
    found = srg_speed.measure(gm, repeats=2)
    assert {"lower", "hash", "pass find-regions", "pipeline"} <= found.keys()
    assert {len(seconds) for seconds in found.values()} == {2}
