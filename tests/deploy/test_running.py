"""Plans carried out: every request ends, with eager's results, by the plan's copies; and when processes are lost."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from djinn_fx.deploy import telling
from djinn_fx.deploy.command import main
from djinn_fx.deploy.reading.config import read_config
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.requests import read_requests
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.deploy.running import seat
from djinn_fx.deploy.running.routing import Router
from djinn_fx.deploy.running.runner import Options, Ran, execute
from djinn_fx.deploy.running.values import put_together, same, taken_apart
from djinn_fx.errors import EngineError, ModelFailedError
from djinn_fx.solvers.deployment.problem import Cluster, Plan, Replica
from tests.deploy.files import write

GB = 10**9
CONFIG: dict[str, Any] = {
    "models": {
        "fragile": {"memory_gb": 1, "inference_time_mean": 0.01, "entry": "tests.deploy.served_models:fragile"},
        "judge": {"memory_gb": 1, "inference_time_mean": 0.01, "entry": "tests.deploy.served_models:judge"},
    },
    "workflows": {
        "alone": {"nodes": [{"id": "first", "model": "fragile"}], "edges": []},
        "both": {
            "nodes": [{"id": "first", "model": "fragile"}, {"id": "other", "model": "judge"},
                      {"id": "last", "model": "judge"}],
            "edges": [{"from": "first", "to": "last"}, {"from": "other", "to": "last"}],
        },
    },
}  # fmt: skip
NODES = {"alone": ["first"], "both": ["first", "other", "last"]}
CLUSTER = Cluster.uniform(2, 2, 80 * GB)
#: fragile on both devices, judge on the second.
SHARED = Plan((Replica(0, 0), Replica(0, 1), Replica(1, 1)))
#: fragile on the first, judge on the second.
APART = Plan((Replica(0, 0), Replica(1, 1)))
EAGER = Options(compiled=False, keep=True, node_s=60.0, warm=1)


def rows(count: int = 20) -> list[dict[str, Any]]:
    """Requests of both workflows in turn."""
    kinds = list(NODES)
    return [
        {
            "request_id": f"req_{n}",
            "timestamp": n / 1000,
            "workflow_id": kinds[n % 2],
            "node_execution_times": dict.fromkeys(NODES[kinds[n % 2]], 0.01),
            "data": {"number": n},
        }
        for n in range(count)
    ]


def workload(folder: Path, requests: list[dict[str, Any]], config: dict[str, Any] | None = None) -> Workload:
    faults = Faults()
    read = read_config(write(folder / "config.json", config or CONFIG), faults)
    return read_requests(write(folder / "requests.json", requests), read, faults, data=True)


def answered(ran: Ran) -> set[str]:
    """Requests that ended; their results are right."""
    found = set()
    for name, results in ran.results.items():
        if name not in ran.failures:
            n = float(name.removeprefix("req_"))
            expected = {"first": 2 * n, "other": 5 * n, "last": 5 * 7 * n} if n % 2 else {"first": 2 * n}
            assert {node: one.item() for node, one in results.items()} == expected
            found.add(name)
    return found


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Processes that are started."""
    made: list[subprocess.Popen[bytes]] = []

    def popen(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen(*args, **kwargs))
        return made[-1]

    class Ours:
        TimeoutExpired, DEVNULL = subprocess.TimeoutExpired, subprocess.DEVNULL
        Popen = staticmethod(popen)

    monkeypatch.setattr(seat, "subprocess", Ours)
    return made


def all_gone(children: list[subprocess.Popen[bytes]]) -> bool:
    return all(one.returncode is not None for one in children)


def test_every_request_ends_with_the_results_of_eager(
    tmp_path: Path, children: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "cache"))
    ran = execute(workload(tmp_path, rows()), CLUSTER, SHARED, Options(check=True), offline=False)
    assert not ran.failures
    assert len(answered(ran)) == 20
    assert (ran.checked, ran.different) == (40, ())
    outcome, problem = ran.planned.outcome, ran.planned.problem
    assert (outcome.ready <= outcome.start).all()
    assert (outcome.start < outcome.end).all()
    for device in (0, 1):
        mine = sorted(
            (outcome.start[node], outcome.end[node])
            for node, replica in enumerate(outcome.replica.tolist())
            if SHARED.replicas[replica].first == device
        )
        assert mine
        assert all(early[1] <= late[0] for early, late in itertools.pairwise(mine))
    for node, replica in enumerate(outcome.replica.tolist()):
        assert SHARED.replicas[replica].model == problem.model_of[node]
    assert len(children) == 2
    assert all_gone(children)


def test_the_command_writes_the_files_of_the_older_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, asked = write(tmp_path / "c.json", CONFIG), write(tmp_path / "r.yaml", {"requests": rows(6)})
    files = ["--config", str(config), "--requests", str(asked)]
    plan = str(tmp_path / "plan.json")
    assert main(["plan", "--gpus", "2", "--effort", "500", "--json", plan, *files]) == 0
    assert main(["run", plan, "--eager", "--check", "--warm", "1", "--out", str(tmp_path), *files]) == 0
    shown = capsys.readouterr().out
    assert "results compared with eager: none differs" in shown
    log = json.loads((tmp_path / "static_execution_log.json").read_text())
    schema = json.loads((Path(telling.__file__).parent / "execution_log.schema.json").read_text())
    jsonschema.validate(log, schema, jsonschema.Draft202012Validator)
    assert log["summary"]["simulate"] is True
    assert (log["summary"]["completed_requests"], len(log["executions"])) == (6, 3 + 3 * 3)
    assert f"(makespan): {log['summary']['makespan']:.2f} seconds" in (tmp_path / "static_scheduler.log").read_text()


def test_the_older_form_calls_models_for_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "simple_config.json", CONFIG)
    write(tmp_path / "simple_requests.yaml", {"requests": [{**rows(2)[1], "data": {"number": 1, "then": "fail"}}]})
    monkeypatch.chdir(tmp_path)
    assert main(["--gpus", "2", "--simulate", "true", "--effort", "500"]) == 1
    assert "Request req_1 did not end: node 'first': ValueError: not with this" in capsys.readouterr().out
    log = json.loads((tmp_path / "static_execution_log.json").read_text())
    assert [one["request_id"] for one in log["failures"]] == ["req_1"]
    assert log["summary"]["completed_requests"] == 0


def test_without_an_entry_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {**CONFIG["models"], "judge": {"memory_gb": 1, "inference_time_mean": 0.01}}
    config = write(tmp_path / "c.json", {**CONFIG, "models": models})
    files = ["--config", str(config), "--requests", str(write(tmp_path / "r.json", rows(4)))]
    plan = str(tmp_path / "plan.json")
    assert main(["plan", "--gpus", "2", "--effort", "500", "--json", plan, *files]) == 0
    capsys.readouterr()
    assert main(["run", plan, *files]) == 2
    told = capsys.readouterr().err
    assert "entry" in told
    assert told.rstrip().endswith("these have none: judge")


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path, children: list[subprocess.Popen[bytes]]) -> None:
    models = {**CONFIG["models"], "judge": {**CONFIG["models"]["judge"], "entry": "tests.deploy.served_models:broken"}}
    with pytest.raises(ModelFailedError, match=r"device 1: model 'judge'.*no weights"):
        execute(workload(tmp_path, rows(), {**CONFIG, "models": models}), CLUSTER, APART, EAGER, offline=True)
    assert all_gone(children)


def test_what_a_lost_process_ran_goes_to_another_copy(tmp_path: Path, children: list[subprocess.Popen[bytes]]) -> None:
    asked = rows()
    asked[7]["data"] |= {"then": "die once", "mark": str(tmp_path / "died")}
    ran = execute(workload(tmp_path, asked), CLUSTER, Plan((*APART.replicas, Replica(0, 1), Replica(1, 0))), EAGER,
                  offline=True)  # fmt: skip
    assert not ran.failures
    assert len(answered(ran)) == 20
    assert len(ran.lost) == 1
    assert "was killed by signal 9" in ran.lost[0]
    assert all_gone(children)


def test_requests_of_a_model_that_is_lost_end_with_the_reason(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    asked = rows()
    asked[7]["data"]["then"] = "die"
    ran = execute(workload(tmp_path, asked), CLUSTER, APART, EAGER, offline=False)
    assert "req_7" in ran.failures
    assert answered(ran) | ran.failures.keys() == {f"req_{n}" for n in range(20)}
    assert set(ran.failures.values()) == {"the process of device 0 was killed by signal 9"}
    assert ran.planned.measures.completed == 20 - len(ran.failures)
    assert all_gone(children)


def test_a_request_that_ends_two_processes_is_not_given_to_a_third(tmp_path: Path) -> None:
    asked = rows()
    asked[-2]["data"]["then"] = "die"
    three = Plan((Replica(0, 0), Replica(0, 1), Replica(0, 2), Replica(1, 2)))
    ran = execute(workload(tmp_path, asked), Cluster.uniform(3, 3, 80 * GB), three, EAGER, offline=True)
    assert len(ran.lost) == 2
    assert "req_18" in ran.failures


def test_a_node_that_never_ends_is_ended(tmp_path: Path, children: list[subprocess.Popen[bytes]]) -> None:
    asked = rows(6)
    asked[4]["data"]["then"] = "hang"
    options = Options(compiled=False, keep=True, warm=1, node_s=2.0)
    ran = execute(workload(tmp_path, asked), CLUSTER, APART, options, offline=True)
    assert "took more than 2s" in ran.failures["req_4"]
    assert all_gone(children)


def test_an_interrupt_ends_all_processes(
    tmp_path: Path, children: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Router, "ended", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(workload(tmp_path, rows()), CLUSTER, APART, EAGER, offline=True)
    assert len(children) == 2
    assert all_gone(children)
    for one in children:
        with pytest.raises(ProcessLookupError):
            os.killpg(one.pid, 0)


def test_values_travel_as_they_are() -> None:
    value = {"a": [torch.ones(2), (1, None, "x")], "tensor": torch.tensor(3), "b": {"value": 1.5, "c": True}}
    tensors: list[torch.Tensor] = []
    assert same(put_together(json.loads(json.dumps(taken_apart(value, tensors))), tensors), value)
    assert not same([torch.ones(2)], [torch.ones(3)])
    assert not same({"a": 1}, {"a": 2})
    with pytest.raises(EngineError, match="object cannot travel"):
        taken_apart([object()], [])
