"""The forms for other programs: traces, graphs, Markdown, files, and two reports compared."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from djinn_fx.command_line import BAD_INPUT, OK
from djinn_fx.errors import SettingsError
from djinn_fx.explain.command import main
from djinn_fx.explain.compare import comparison, read_report
from djinn_fx.explain.detail.measured import RegionTime
from djinn_fx.explain.forms.dot import to_dot
from djinn_fx.explain.forms.files import FORMS, add_forms, asked_for
from djinn_fx.explain.forms.markdown import to_markdown
from djinn_fx.explain.forms.model_explorer import to_model_explorer
from djinn_fx.explain.forms.trace import to_trace
from djinn_fx.explain.report import BuildInfo, Check, Report
from tests.explain.forms.conftest import AWKWARD, MODEL
from tools.report_schema import FILE
from tools.report_schema import main as schema_main

# -- trace -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def events(report: Report) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(to_trace(report))["traceEvents"]
    return found


def test_a_trace_has_a_track_for_each_device_and_link(events: list[dict[str, Any]]) -> None:
    names = [one["args"]["name"] for one in events if one["name"] == "thread_name" and one["pid"] == 1]
    assert names == ["gpu0", "gpu1", "gpu0 → gpu1"]


def test_a_traces_events_are_the_timelines(report: Report, events: list[dict[str, Any]]) -> None:
    spans = [one for one in events if one["ph"] == "X" and one["pid"] == 1]
    began_us, wanted = 0.0, []
    for graph in report.graphs:
        for span in graph.timeline.spans:
            wanted.append((graph.regions[span.region].label, began_us + 1e6 * span.start_s, 1e6 * span.duration_s))
        wanted += [
            (one.value, began_us + 1e6 * one.start_s, 1e6 * (one.duration_s or 0)) for one in graph.timeline.moves
        ]
        began_us += 1e6 * graph.timeline.end_s
    assert [one["name"] for one in spans] == [name for name, _, _ in wanted]
    assert [one["ts"] for one in spans] == pytest.approx([start for _, start, _ in wanted], abs=2e-3)
    assert [one["dur"] for one in spans] == pytest.approx([duration for _, _, duration in wanted], abs=2e-3)


def test_a_trace_tells_what_compiling_took(report: Report, events: list[dict[str, Any]]) -> None:
    passes = [one for one in events if one.get("cat") == "pass"]
    measured = [one.seconds for graph in report.run.scenarios[0].graphs for one in graph.passes]
    assert [one["dur"] for one in passes] == pytest.approx([1e6 * seconds for seconds in measured], abs=2e-3)


def test_a_trace_has_what_was_measured_of_calls_and_regions(report: Report) -> None:
    events = [one for one in json.loads(to_trace(built(report)))["traceEvents"] if one["pid"] == 2]
    tracks = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}
    found = {
        tracks[one["tid"]]: (one["name"], one["dur"]) for one in events if one["ph"] == "X" and one["cat"] != "pass"
    }
    assert found == {
        "builds": ("region 0", 0.5e6),
        "one call": ("one call", 1e6),
        "one call of eager": ("one call of eager", 2e6),
        "regions on gpu0": (report.graphs[0].regions[0].label, 20.0),
    }


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_dot_has_every_region_and_edge(report: Report) -> None:
    text = to_dot(report)
    assert len(re.findall(r"^ +s0g\d+r\d+ \[label=", text, re.M)) == sum(len(graph.regions) for graph in report.graphs)
    assert text.count(" -> ") == sum(len(graph.edges) for graph in report.graphs)
    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    assert '"' not in unquoted
    assert "script" not in unquoted


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's dot is not installed")
def test_graphviz_reads_the_dot(report: Report) -> None:
    done = subprocess.run(["dot", "-Tplain"], input=to_dot(report), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"^node ", done.stdout, re.M)) == sum(len(graph.regions) for graph in report.graphs)


def test_model_explorer_gets_nodes_and_what_they_read(report: Report) -> None:
    data = json.loads(to_model_explorer(report))
    assert data["label"] == report.model.name
    assert [len(one["nodes"]) for one in data["graphs"]] == [len(graph.regions) for graph in report.graphs]
    for one, graph in zip(data["graphs"], report.graphs, strict=True):
        ids = [node["id"] for node in one["nodes"]]
        assert len(set(ids)) == len(ids)
        reads = [
            (int(edge["sourceNodeId"]), int(node["id"])) for node in one["nodes"] for edge in node["incomingEdges"]
        ]
        assert sorted(reads) == sorted((edge.source, edge.target) for edge in graph.edges)
        assert all(set(pair) == {"key", "value"} for node in one["nodes"] for pair in node["attrs"])


# -- Markdown ----------------------------------------------------------------------------------------------------------


def test_markdown_is_short_and_escapes_what_it_quotes(report: Report) -> None:
    text = to_markdown(report)
    visible = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
    assert len(visible.splitlines()) < 40
    assert AWKWARD not in text
    assert r"\<script\>" in visible
    assert "1 graph break" in visible
    assert text.count("<details>") == text.count("</details>") == len(report.graphs)


# -- files -------------------------------------------------------------------------------------------------------------


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    add_forms(parser)
    return parser.parse_args(words)


def test_every_form_is_written_where_it_is_asked_for(report: Report, tmp_path: Path) -> None:
    words = [word for flag in ("--json", *FORMS) for word in (flag, str(tmp_path / flag.strip("-")))]
    forms = asked_for(parsed(*words))
    assert not forms.quiet
    forms.write(report)
    assert {path.name for path in tmp_path.iterdir()} == {flag.strip("-") for flag in ("--json", *FORMS)}
    assert all(path.read_text("utf-8") for path in tmp_path.iterdir())


def test_a_form_on_standard_output_is_alone_there(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    forms = asked_for(parsed("--md", "-"))
    assert forms.quiet
    forms.write(report)
    assert capsys.readouterr().out == to_markdown(report) + "\n"
    with pytest.raises(SettingsError, match="--json and --dot: only one"):
        asked_for(parsed("--json", "-", "--dot", "-"))


def test_a_place_that_is_none_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--trace .*is a directory"):
        asked_for(parsed("--trace", str(tmp_path)))


def test_the_command_writes_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(MODEL, "utf-8")
    words = [word for flag in ("--json", *FORMS) for word in (flag, str(tmp_path / f"out{flag}"))]
    assert main([str(tmp_path / "net.py:model"), *words]) == OK
    assert capsys.readouterr().out.count("Graph ") >= 2
    assert {path.name for path in tmp_path.glob("out*")} == {f"out{flag}" for flag in ("--json", *FORMS)}
    assert main([str(tmp_path / "net.py:model"), "--trace", "-"]) == OK
    assert json.loads(capsys.readouterr().out)["traceEvents"]


# -- schema ------------------------------------------------------------------------------------------------------------


def test_the_schema_is_current() -> None:
    assert schema_main(["--check"]) == 0


def test_reports_are_what_the_schema_says(report: Report) -> None:
    schema = json.loads(FILE.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(built(report).to_json()), schema)
    data = json.loads(report.to_json())
    del data["scenarios"][0]["graphs"][0]["edges"]
    with pytest.raises(jsonschema.ValidationError, match="'edges' is a required property"):
        jsonschema.validate(data, schema)


def built(report: Report) -> Report:
    """A report as of a model that was built and run."""
    build = BuildInfo(region=0, engine="eager", outcome="built", key="ab", seconds=0.5)
    check = Check(equal=True, max_difference=0.0, rtol=1e-5, atol=1e-5, call_s=1.0, eager_s=2.0)
    (run,) = report.run.scenarios
    timed = RegionTime(
        region=0, engine="eager", time_s=2e-5, low_s=1e-5, high_s=3e-5, calls=8, made="2026-01-01T00:00:00+00:00"
    )
    graphs = (replace(run.graphs[0], builds=(build,), times=(timed,)), *run.graphs[1:])
    return replace(report, run=replace(report.run, scenarios=(replace(run, graphs=graphs, check=check),)))


# -- compare -----------------------------------------------------------------------------------------------------------


def test_a_report_is_read_back_as_it_was(report: Report, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(built(report).to_json(), "utf-8")
    assert read_report(str(tmp_path / "a.json")) == built(report)


def test_the_same_report_is_no_difference(report: Report) -> None:
    assert comparison(report, report) == "no difference"


def test_what_differs_is_told(report: Report) -> None:
    (scenario,) = report.scenarios
    first, *rest = scenario.graphs
    region = replace(first.regions[0], structural_hash="0123456789ab")
    changed = replace(first, regions=(region, *first.regions[1:]), peak_bytes=2 * first.peak_bytes)
    after = replace(
        built(report),
        versions={**report.versions, "torch": "9.9"},
        scenarios=(replace(scenario, graphs=(changed, *rest), graph_breaks=("print at net.py:7",)),),
    )
    text = comparison(report, after)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"torch {report.versions['torch']} → 9.9" in lines
    assert "engines not built → 1 by eager" in lines
    assert any(line.startswith("peak ") and line.endswith("(+100.0%)") for line in lines)
    assert "graph break new: print at net.py:7" in lines
    assert any(line.startswith("graph break gone: Call to") for line in lines)
    assert any(line.startswith("artefact new:") and "0123456789ab" in line for line in lines)


def test_compare_needs_two_reports_of_this_schema(
    report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, old, other, short = (tmp_path / name for name in ("good", "old", "other", "short"))
    good.write_text(report.to_json(), "utf-8")
    old.write_text(report.to_json().replace("djinn.explain/3", "djinn.explain/2"), "utf-8")
    other.write_text("[1]", "utf-8")
    short.write_text(json.dumps({"schema": report.schema}), "utf-8")
    assert main(["--compare", str(good), str(good)]) == OK
    assert capsys.readouterr().out == "no difference\n"
    for path, said in (
        (old, "'djinn.explain/2'"),
        (other, "is no report"),
        (short, "model: "),
        (tmp_path / "no", "cannot"),
    ):
        assert main(["--compare", str(good), str(path)]) == BAD_INPUT
        error = capsys.readouterr().err
        assert str(path) in error
        assert said in error
        assert len(error.splitlines()) == 1
    assert main([]) == BAD_INPUT
    assert "model.py" in capsys.readouterr().err
