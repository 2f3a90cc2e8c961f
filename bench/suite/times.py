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
#: As many of the dearest tests are listed.
DEAREST = 100


def _now() -> tuple[float, float, float]:
    spent = os.times()
    children = spent.children_user + spent.children_system
    return spent.user + spent.system + children, children, time.perf_counter()


class Times:
    """Of one process; the first process gathers those of the others."""

    def __init__(self, file: str | None) -> None:
        self._file = file
        self._table: Table = {}
        self._tests: dict[str, float] = {}
        self._processes: list[dict[str, float]] = []
        self._start = _now()

    def _row(self, file: str) -> dict[str, float]:
        return self._table.setdefault(file, dict.fromkeys(_FIELDS, 0.0))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """A test, with the fixtures made for it and taken down after it."""
        start = _now()
        result = yield
        cpu, children, wall = (end - begin for end, begin in zip(_now(), start, strict=True))
        row = self._row(item.nodeid.partition("::")[0])
        for name, value in zip(_FIELDS, (cpu, children, wall, 1), strict=False):
            row[name] += value
        self._tests[item.nodeid] = cpu
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        """Importing a file, and making its tests of their parameters."""
        cpu, *_ = _now()
        result = yield
        if ".py" in collector.nodeid:
            self._row(collector.nodeid.partition("::")[0])["collect"] += _now()[0] - cpu
        return result

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """What another process found."""
        found = getattr(node, "workeroutput", {}).get("suite_times")
        if found is None:
            return
        self._processes.append(found["process"])
        self._tests.update(found["tests"])
        for file, row in found["table"].items():
            for name, value in row.items():
                self._row(file)[name] += value

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand over what was found, or write it."""
        process = {"cpu": _now()[0], "wall": _now()[-1] - self._start[-1]}
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["suite_times"] = {"table": self._table, "process": process, "tests": self._tests}
        elif self._file is not None:
            self._write(Path(self._file), process)

    def _write(self, file: Path, process: dict[str, float]) -> None:
        rows = sorted(self._table.items(), key=lambda row: -row[1]["cpu"])
        report = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "device": machine.device(),
            "versions": machine.versions(),
            "load_average": os.getloadavg()[0],
            "first_process": _rounded(process),
            "workers": [_rounded(one) for one in self._processes],
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
    config.pluginmanager.register(Times(config.getoption("--suite-times")), "suite-times")
