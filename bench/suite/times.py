"""A pytest plugin that adds up each test file's processor time and wall time, over all of xdist's processes.

    python -m pytest -p bench.suite.times --suite-times times.json -m "not exam" -n 2

Processor time counts the process and those of its children that it has waited for, so a busy machine changes it little.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from bench.harness import machine

#: By file: seconds of the processor, those of them in children, seconds on the clock, tests, and seconds of collecting.
Table = dict[str, dict[str, float]]
_FIELDS = ("cpu", "children", "wall", "tests", "collect")
_PROPERTY = "suite_times"
#: As many of the dearest tests are listed.
DEAREST = 100
#: Seconds between two writings, for a run that is stopped half way.
WRITE_EVERY_S = 60.0


def _now() -> tuple[float, float, float]:
    spent = os.times()
    children = spent.children_user + spent.children_system
    return spent.user + spent.system + children, children, time.perf_counter()


class Times:
    """Of one process; each report of a test brings its times to the first process, which adds them up."""

    def __init__(self, file: str | None) -> None:
        self._file = file
        self._table: Table = {}
        self._tests: dict[str, float] = {}
        self._processes: list[dict[str, float]] = []
        self._start = self._last = _now()
        self._written = time.monotonic()

    def _row(self, nodeid: str) -> dict[str, float]:
        return self._table.setdefault(nodeid.partition("::")[0], dict.fromkeys(_FIELDS, 0.0))

    def pytest_runtest_logstart(self) -> None:
        """A test begins."""
        self._last = _now()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Of a test, or of making fixtures for it, or of taking them down."""
        report = yield
        now = _now()
        report.user_properties.append((_PROPERTY, [end - begin for end, begin in zip(now, self._last, strict=True)]))
        self._last = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In the first process, of every test."""
        row = self._row(report.nodeid)
        for spent in [value for name, value in report.user_properties if name == _PROPERTY]:
            for name, value in zip(_FIELDS, spent, strict=False):  # type: ignore[call-overload]
                row[name] += value
            self._tests[report.nodeid] = self._tests.get(report.nodeid, 0.0) + spent[0]  # type: ignore[index]
        row["tests"] += report.when == "call"
        if self._file is not None and time.monotonic() - self._written > WRITE_EVERY_S:
            self._write(Path(self._file), {})

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        """Importing a file, and making its tests of their parameters."""
        cpu, *_ = _now()
        result = yield
        if ".py" in collector.nodeid:
            self._row(collector.nodeid)["collect"] += _now()[0] - cpu
        return result

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """What another process took, and what collecting took there."""
        found = getattr(node, "workeroutput", {}).get(_PROPERTY)
        if found is None:
            return
        self._processes.append(found["process"])
        for file, seconds in found["collect"].items():
            self._row(file)["collect"] += seconds

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand over what was found, or write it."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            collect = {file: row["collect"] for file, row in self._table.items() if row["collect"]}
            output[_PROPERTY] = {"collect": collect, "process": self._process()}
        elif self._file is not None:
            self._write(Path(self._file), {"device": machine.device(), "versions": machine.versions()})

    def _process(self) -> dict[str, float]:
        cpu, _, wall = _now()
        return {"cpu": round(cpu, 2), "wall": round(wall - self._start[-1], 2)}

    def _write(self, file: Path, made_on: dict[str, Any]) -> None:
        self._written = time.monotonic()
        rows = sorted(self._table.items(), key=lambda row: -row[1]["cpu"])
        report = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            **made_on,
            "load_average": os.getloadavg()[0],
            "first_process": self._process(),
            "workers": self._processes,
            "total": _rounded({name: sum(row[name] for _, row in rows) for name in _FIELDS}),
            "files": {name: _rounded(row) for name, row in rows},
            "dearest": _rounded(dict(sorted(self._tests.items(), key=lambda test: -test[1])[:DEAREST])),
        }
        text = json.dumps(report, indent=1)
        file.write_text(text.replace("{\n   ", "{").replace(",\n   ", ", ").replace("\n  }", "}") + "\n")


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in row.items()}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to write."""
    parser.addoption("--suite-times", metavar="FILE", help="write each test file's processor seconds here, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Count in this process."""
    file = None if hasattr(config, "workerinput") else config.getoption("--suite-times")
    config.pluginmanager.register(Times(file), "suite-times")
