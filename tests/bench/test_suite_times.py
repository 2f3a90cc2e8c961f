"""Where the suite's time goes: what reports bring is added up, file by file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.suite.times import Times


def report(test: str, when: str, *spent: float) -> Any:
    """Of a test's part that took so much: of the processor, in children, on the clock."""
    return SimpleNamespace(nodeid=test, when=when, user_properties=[("suite_times", list(spent)), ("other", 1)])


def test_setup_call_and_teardown_count_for_their_file(tmp_path: Path) -> None:
    times = Times(str(tmp_path / "times.json"))
    for one in (
        report("a.py::one", "setup", 1.0, 0.5, 2.0),
        report("a.py::one", "call", 2.0, 0.0, 2.0),
        report("a.py::two", "call", 4.0, 0.0, 4.0),
        report("b.py::one", "call", 8.0, 1.0, 8.0),
    ):
        times.pytest_runtest_logreport(one)
    times.pytest_testnodedown(
        SimpleNamespace(workeroutput={"suite_times": {"process": {"cpu": 20.0}, "collect": {"a.py": 3.0}}}), None
    )
    times.pytest_sessionfinish(SimpleNamespace(config=object()))
    found = json.loads((tmp_path / "times.json").read_text())
    assert list(found["files"]) == ["b.py", "a.py"]
    assert found["files"]["a.py"] == {"cpu": 7.0, "children": 0.5, "wall": 8.0, "tests": 2, "collect": 3.0}
    assert found["total"]["cpu"] == 15.0
    assert found["workers"] == [{"cpu": 20.0}]
    assert found["dearest"] == {"b.py::one": 8.0, "a.py::two": 4.0, "a.py::one": 3.0}
    assert found["device"]["cores"] >= 1


def test_a_report_tells_what_was_spent_since_the_last_one() -> None:
    times = Times(None)
    times.pytest_runtest_logstart()
    told = SimpleNamespace(user_properties=[])
    hook = times.pytest_runtest_makereport()
    next(hook)
    with pytest.raises(StopIteration):
        hook.send(told)
    ((name, spent),) = told.user_properties
    assert name == "suite_times"
    assert len(spent) == 3
    assert min(spent) >= 0
