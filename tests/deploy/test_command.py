"""The commands: what they print and write, how they refuse."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from djinn_fx.cli.main import main as djinn
from djinn_fx.deploy import telling
from djinn_fx.deploy.command import main
from djinn_fx.deploy.scheduler import ServerInfo, StaticScheduler
from djinn_fx.solvers.deployment.placing.exact import available
from tests.deploy.files import CONFIG, requests, write

QUICK = ["--effort", "1500"]
SECTIONS = (
    "EXECUTION METRICS",
    "Static deployment metrics:",
    "Request completion times:",
    "GPU utilization:",
    "Overall GPU statistics:",
    "Model switching:",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the older form's defaults."""
    write(tmp_path / "simple_config.json", CONFIG)
    write(tmp_path / "simple_requests.yaml", {"requests": requests()})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def schema(name: str) -> Any:
    return json.loads((Path(telling.__file__).parent / f"{name}.schema.json").read_text())


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_the_older_form_writes_its_files(here: Path, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    assert main(["--gpus", "8", "--simulate", "false", "--mode", mode, *QUICK]) == 0
    shown = capsys.readouterr().out
    log = json.loads((here / "static_execution_log.json").read_text())
    jsonschema.validate(log, schema("execution_log"), jsonschema.Draft202012Validator)
    for section in SECTIONS:
        assert section in shown
        assert section in (here / "static_scheduler.log").read_text()
    summary = log["summary"]
    assert (summary["total_requests"], summary["completed_requests"]) == (12, 12)
    assert summary["total_nodes_executed"] == len(log["executions"]) == 6 * 2 + 6 * 4
    assert (summary["mode"], summary["total_model_switches"], summary["gpus_per_server"]) == (mode, 0, 4)
    assert summary["makespan"] == max(one["end_time"] for one in log["executions"])
    assert f"(makespan): {summary['makespan']:.2f} seconds" in shown
    for one in log["executions"]:
        assert one["model_name"] in log["gpu_assignments"][str(one["gpu_id"])]["assigned_models"]
        assert one["gpu_ids"] == list(range(one["gpu_id"], one["gpu_id"] + (4 if one["model_name"] == "judge" else 1)))
        assert one["gpu_id"] in log["server_assignments"][str(one["server_id"])]["gpu_ids"]
        assert one["execution_time"] == pytest.approx(one["estimated_time"])
        assert one["waiting_time"] >= 0
    spent = sum(one["execution_time"] * len(one["gpu_ids"]) for one in log["executions"])
    busy = sum(one["utilization"] for one in log["gpu_assignments"].values()) / 100 * summary["makespan"]
    assert busy == pytest.approx(spent)


def test_a_plan_is_simulated_again_to_the_same_figures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["deploy", "plan", "--gpus", "8", "--mode", "online", "--json", "plan.json", "--html", "page.html", *QUICK]
    assert djinn(words) == 0
    first = capsys.readouterr().out
    plan = json.loads((here / "plan.json").read_text())
    jsonschema.validate(plan, schema("plan"), jsonschema.Draft202012Validator)
    assert djinn(["deploy", "simulate", "plan.json", "--mode", "online", "--log", "log.json"]) == 0
    again = capsys.readouterr().out
    assert again[again.index("EXECUTION METRICS") :].strip() == first[first.index("EXECUTION METRICS") :].strip()
    jsonschema.validate(json.loads((here / "log.json").read_text()), schema("execution_log"))
    page = (here / "page.html").read_text()
    assert page.count("<rect") >= 36
    assert "src=" not in page
    assert "<script" not in page


def test_one_model_a_device_where_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "8", "--exclusive", "--json", "-", *QUICK]) == 0
    plan = json.loads(capsys.readouterr().out)
    taken = [gpu for one in plan["replicas"] for gpu in one["gpu_ids"]]
    assert len(taken) == len(set(taken))
    assert plan["bounds"]["placement"] > 0


def test_what_does_not_fit_is_refused_with_the_fewest_devices(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "4", "--exclusive", *QUICK]) == 5
    told = capsys.readouterr().err
    assert "6 devices are the smallest number that suffices" in told
    assert main(["plan", "--gpus", "6", "--exclusive", *QUICK]) == 0


def test_a_gang_larger_than_a_server_is_told_with_its_place(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "8", "--gpus-per-server", "2"]) == 2
    told = capsys.readouterr().err
    assert "simple_config.json:" in told
    assert "'judge' takes 4 devices" in told
    assert main(["plan", "--gpus", "8", "--gpu-memory", "10GB"]) == 5
    assert "no number of such devices suffices" in capsys.readouterr().err


def test_copies_are_limited_and_the_least_load_is_proved(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "8", "--replicas", "1", "--json", "-", *QUICK]) == 0
    assert len(json.loads(capsys.readouterr().out)["replicas"]) == 3
    assert main(["plan", "--gpus", "8", "--replicas", "none", *QUICK]) == 2
    if available():
        assert main(["plan", "--gpus", "8", "--exact", "2", *QUICK]) == 0
        assert "proved within" in capsys.readouterr().out


def test_pins_and_groups_of_the_configuration_hold(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = copy.deepcopy(CONFIG)
    config["models"]["painter"]["devices"] = [5]
    config["groups"] = [["writer", "painter"]]
    write(here / "c.yaml", config)
    assert main(["plan", "--config", "c.yaml", "--gpus", "8", "--json", "-", *QUICK]) == 0
    plan = json.loads(capsys.readouterr().out)
    where = {(one["model"], one["server_id"]) for one in plan["replicas"]}
    assert [one["gpu_ids"] for one in plan["replicas"] if one["model"] == "painter"] == [[5]]
    assert {server for model, server in where if model == "writer"} == {1}
    config["models"]["painter"]["devices"] = [50]
    write(here / "c.yaml", config)
    assert main(["plan", "--config", "c.yaml", "--gpus", "8", *QUICK]) == 2
    assert "may be on none of the devices" in capsys.readouterr().err


def test_the_fewest_devices_for_a_promise(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--mode", "online", "--objective", "devices", "--gpus", "16", *QUICK]
    assert main([*words, "--slo-p99", "400", "--json", "-"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["measures"]["p99"] <= 400
    assert len(plan["cluster"]["servers"]) < 16
    assert main([*words, "--slo-p99", "1"]) == 5
    assert "reach a P99 of" in capsys.readouterr().err
    assert main(words) == 2


def test_devices_come_from_a_topology(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "djinn.yaml").write_text(
        "topology:\n"
        "  hosts:\n"
        "    a: {cpu: xeon-8480, devices: {g0: h100-pcie, g1: h100-pcie, g2: h100-pcie, g3: h100-pcie}}\n"
        "    b: {cpu: xeon-8480, devices: {g0: {row: h100-pcie, memory: 40GB}}}\n"
        "  links:\n"
        + "".join(f"    - {{between: [a/g{n}, a], class: pcie5-x16}}\n" for n in range(4))
        + "    - {between: [b/g0, b], class: pcie5-x16}\n"
        "    - {between: [a, b], bandwidth: 10 Gbit/s, latency: 30us}\n"
    )
    assert main(["plan", "--topology", "djinn.yaml", "--json", "-", *QUICK]) == 0
    cluster = json.loads(capsys.readouterr().out)["cluster"]
    assert cluster["servers"] == [0, 0, 0, 0, 1]
    assert cluster["memory_bytes"][4] == 40 * 10**9
    assert 0 < cluster["bandwidth_bytes_s"] < 1.3e9


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["plan"], 2, "--gpus N"),
        (["plan", "--gpus", "0"], 2, "at least 1"),
        (["plan", "--gpus", "8", "--gpu-memory", "80"], 2, "--gpu-memory"),
        (["plan", "--gpus", "8", "--config", "no.json"], 2, "no.json"),
        (["simulate", "simple_config.json"], 2, "this is no plan"),
        (["--gpus", "8", "--simulate", "true"], 2, "`entry`"),
    ],
)
def test_bad_words_are_one_error(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    assert main(words) == code
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_the_names_of_the_older_scheduler(here: Path) -> None:
    scheduler = StaticScheduler(gpus=8)
    scheduler.load_config(here / "simple_config.json")
    scheduler.load_requests(here / "simple_requests.yaml")
    analysis = scheduler.analyze_workflow_patterns()
    assert analysis.model_usage == {"writer": 18, "painter": 6, "judge": 12}
    assert analysis.workflow_frequency == {"illustrate": 6, "debate": 6}
    pairs = {(one.model1, one.model2): one.frequency for one in analysis.model_cooccurrence}
    assert pairs == {("writer", "judge"): 24, ("writer", "painter"): 6}
    scheduler.wish = type(scheduler.wish)(effort=1000)
    run = scheduler.run()
    assert run.measures.completed == 12
    assert sum(one.execution_count for one in scheduler.devices) >= 36
    servers = scheduler.servers
    assert any(one.can_complete_locally({"writer", "judge"}) for one in servers)
    assert not ServerInfo(0, (0,), frozenset({"a"})).can_complete_locally({"a", "b"})


def test_a_plan_is_rebalanced_for_other_requests(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "8", "--exclusive", "--json", "old.json", *QUICK]) == 0
    capsys.readouterr()
    asked = [one for one in requests(24) if one["workflow_id"] == "illustrate"]
    write(here / "new.json", asked)
    words = ["rebalance", "old.json", "--requests", "new.json", *QUICK]
    assert main([*words, "--json", "new_plan.json"]) == 0
    shown = capsys.readouterr().out
    assert "planned anew" in shown
    plan = json.loads((here / "new_plan.json").read_text())
    jsonschema.validate(plan, schema("plan"))
    assert plan["measures"]["completed"] == len(asked)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda plan: plan["replicas"][0].update(gpu_ids=[99]), "numbers from 0 to 7 are wanted"),
        (lambda plan: plan["replicas"][0].update(gpu_ids=[]), "numbers from 0 to 7 are wanted"),
        (lambda plan: plan["replicas"][0].update(gpu_ids=["a"]), "numbers from 0 to 7 are wanted"),
        (lambda plan: plan["replicas"][-1].update(gpu_ids=[0, 2, 4, 6, 7]), "that follow each other are wanted"),
        (lambda plan: plan["replicas"][0].update(model="writr"), "did you mean 'writer'"),
        (lambda plan: plan["cluster"].update(servers=[10**9] * 8), "servers: a number from 0 for each device"),
        (lambda plan: plan["discipline"].update(hold="long"), "hold is a number of at least 0"),
        (lambda plan: plan["discipline"].pop("hold") and plan["discipline"].update(held=1), "held"),
        (lambda plan: plan.update(cluster=None), "a plan lacks or misspells"),
    ],
)
def test_a_plan_that_was_edited_badly_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Any], object], told: str
) -> None:
    assert main(["plan", "--gpus", "8", "--effort", "500", "--json", "plan.json"]) == 0
    plan = json.loads((here / "plan.json").read_text())
    change(plan)
    (here / "plan.json").write_text(json.dumps(plan))
    capsys.readouterr()
    assert main(["simulate", "plan.json"]) == 2
    error = capsys.readouterr().err
    assert "plan.json" in error
    assert told in error
