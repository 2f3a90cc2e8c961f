"""The page and the trace as a browser shows them: offline, at three sizes, by mouse and keyboard, without scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from djinn_fx.explain.forms.html.page import to_html
from djinn_fx.explain.forms.trace import to_trace
from djinn_fx.explain.report import Report

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def node_package(name: str) -> Path | None:
    """A package of Node, in NODE_PATH or among the global ones."""
    npm = shutil.which("npm")
    places = os.environ.get("NODE_PATH", "").split(os.pathsep)
    if npm is not None:
        places.append(subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False).stdout.strip())
    return next((path for place in places if place and (path := Path(place) / name).is_dir()), None)


@pytest.fixture(scope="module")
def found(report: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser sees."""
    node, browser = shutil.which("node"), next(filter(None, map(shutil.which, BROWSERS)), None)
    playwright, speedscope = node_package("playwright-core"), node_package("speedscope")
    missing = [
        name for name, there in (("node", node), ("chromium", browser), ("playwright-core", playwright)) if not there
    ]
    if missing or node is None:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "page.html").write_text(to_html(report), "utf-8")
    (folder / "trace.json").write_text(to_trace(report), "utf-8")
    given = {
        "playwright": str(playwright),
        "speedscope": str(speedscope / "dist" / "release") if speedscope is not None else None,
        "chromium": browser,
        "page": str(folder / "page.html"),
        "trace": str(folder / "trace.json"),
        "pictures": str(folder),
    }
    script = Path(__file__).parent / "look.cjs"
    done = subprocess.run([node, script, json.dumps(given)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    seen["pictures"] = {path.stem: path.stat().st_size for path in folder.glob("*.png")}
    return seen


def test_it_asks_for_nothing_and_nothing_goes_wrong(found: dict[str, Any]) -> None:
    assert found["requests"] == []
    assert found["messages"] == []


def test_charts_are_drawn(found: dict[str, Any], report: Report) -> None:
    bars = sum(len(graph.timeline.spans) + len(graph.timeline.moves) for graph in report.graphs)
    assert len(found["bars"]) == bars
    assert all(width >= 2 and height > 20 for width, height in found["bars"])
    assert len(found["areas"]) >= sum(len(graph.curves) for graph in report.graphs)
    assert all(width > 400 and height > 1 for width, height in found["areas"])
    assert len(found["boxes"]) == sum(len(graph.regions) for graph in report.graphs)


def test_regions_can_be_searched_and_sorted(found: dict[str, Any]) -> None:
    search = found["search"]
    assert (search["before"], search["during"], search["after"]) == (2, 1, 2)
    assert search["said"] == "1 of 2 regions"
    assert search["dim"] == 1
    assert found["sort"]["up"] == sorted(found["sort"]["up"]) == found["sort"]["down"][::-1]
    assert found["sort"]["says"] == "descending"


def test_all_can_be_reached_and_read_by_the_keyboard(found: dict[str, Any], report: Report) -> None:
    assert {"theme", "time", "memory", "input", "button", "summary"} <= set(found["reached"])
    first, last, left = found["time"]
    assert first.startswith(report.graphs[0].regions[0].label)
    assert last.startswith(report.graphs[0].timeline.moves[0].value)
    assert left.endswith("by estimate")
    assert found["memory"][0].startswith("op 1, ")


def test_it_fits_a_phone_and_has_two_sets_of_colours(found: dict[str, Any]) -> None:
    width, window = found["phone"]
    assert width <= window
    assert found["themes"] == ["light", "dark", "auto"]
    light, dark = found["papers"]
    assert light != dark
    assert {name: size > 20_000 for name, size in found["pictures"].items() if name != "speedscope"} == dict.fromkeys(
        ("laptop", "phone", "dark"), True
    )


def test_tables_are_there_without_scripts(found: dict[str, Any], report: Report) -> None:
    assert found["plain"] == {"rows": sum(len(graph.regions) for graph in report.graphs), "search": 0}


def test_speedscope_opens_the_trace(found: dict[str, Any], report: Report) -> None:
    if "speedscope" not in found:
        pytest.skip("not installed: speedscope")
    opened = found["speedscope"]
    assert opened["errors"] == []
    assert opened["title"] == "t.json - speedscope"
    assert f"{report.model.name}: one call, by estimate" in opened["text"]
    assert "gpu0" in opened["text"]
