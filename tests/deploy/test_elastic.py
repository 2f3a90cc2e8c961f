"""Further copies come while requests run, where memory is left, and nothing that is there moves; gangs are hosted."""

from __future__ import annotations

import copy
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from djinn_fx.deploy.command import main
from djinn_fx.deploy.running.elastic import Elastic
from djinn_fx.deploy.running.routing import Router
from djinn_fx.deploy.running.runner import Options, Ran, execute
from djinn_fx.solvers.deployment.problem import Cluster, Plan, Problem, Replica
from djinn_fx.solvers.deployment.validator import validate
from tests.deploy.files import write
from tests.deploy.test_running import CONFIG, GB, answered, rows, workload

HERE = "tests.deploy.served_models"
GROWING = Options(compiled=False, keep=True, warm=1, node_s=120.0, queue=2)


@pytest.fixture(autouse=True)
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which copies leave a file each."""
    found = tmp_path / "marks"
    found.mkdir()
    monkeypatch.setenv("DJINN_TEST_MARKS", str(found))
    return found


def config(entry: str, gang: int = 1) -> dict[str, Any]:
    made = copy.deepcopy(CONFIG)
    made["models"]["fragile"] |= {"entry": f"{HERE}:{entry}", "gpus_required": gang}
    return made


def asked(copies: int = 0, seconds: float = 100.0) -> list[dict[str, Any]]:
    """Twenty requests; nodes are said to take long, so that a load is worth it. The first one is there to warm up."""
    made = rows()
    for n, row in enumerate(made):
        row["node_execution_times"] = dict.fromkeys(row["node_execution_times"], seconds)
        row["data"] |= {"copies": copies} if n > 1 else {}
    return made


def on(ran: Ran, number: int) -> int:
    """Nodes that a copy ran."""
    return int((ran.planned.outcome.replica == number).sum())


@pytest.mark.parametrize("gang", [1, 2])
def test_a_model_for_which_many_wait_gets_a_copy_where_memory_is_left(tmp_path: Path, marks: Path, gang: int) -> None:
    cluster = Cluster.uniform(2 * gang, 2 * gang, 2 * GB)
    first = Plan((Replica(0, 0), Replica(1, 0)))
    ran = execute(workload(tmp_path, asked(copies=2), config("patient", gang)), cluster, first,
                  GROWING, offline=True)  # fmt: skip
    assert not ran.failures
    assert not ran.lost
    assert answered(ran) == {f"req_{n}" for n in range(20)}
    plan, problem = ran.planned.plan, ran.planned.problem
    assert plan.replicas[: len(first.replicas)] == first.replicas
    added = [one.replica for one in ran.added]
    assert plan.replicas[len(first.replicas) :] == tuple(added)
    assert Replica(0, gang) in added
    assert on(ran, len(first.replicas) + added.index(Replica(0, gang))) > 0
    assert not validate(problem, plan)
    assert len(list(marks.iterdir())) >= 2


def test_without_spare_memory_no_copy_comes(tmp_path: Path, marks: Path) -> None:
    ran = execute(workload(tmp_path, asked(), config("patient")), Cluster.uniform(2, 2, GB),
                  Plan((Replica(0, 0), Replica(1, 1))), GROWING, offline=True)  # fmt: skip
    assert not ran.added
    assert len(answered(ran)) == 20
    assert len(list(marks.iterdir())) == 1


def test_a_copy_that_does_not_come_is_told_and_asked_for_once(tmp_path: Path, marks: Path) -> None:
    ran = execute(workload(tmp_path, asked(copies=2), config("lonely")), Cluster.uniform(3, 3, 2 * GB),
                  Plan((Replica(0, 0), Replica(1, 0))), GROWING, offline=True)  # fmt: skip
    assert not ran.failures
    assert len(answered(ran)) == 20
    assert all(one.replica.model == 1 for one in ran.added)
    (told,) = ran.lost
    assert "one is enough" in told
    assert len(list(marks.iterdir())) == 2


class Queues(Router):
    """A router with so many nodes of the first model waiting, and devices that are busy."""

    def __init__(self, problem: Problem, plan: Plan, nodes: int) -> None:
        super().__init__(problem, plan)
        self.nodes = [n for n, model in enumerate(self.model_of) if model == 0][:nodes]

    def waiting(self) -> list[int]:
        return self.nodes


def elastic(
    tmp_path: Path, nodes: int, *, load_s: float = 1.0, cluster: Cluster | None = None, **other: Any
) -> Elastic:
    given = workload(tmp_path, asked(seconds=1.0), other.pop("config", config("patient")))
    problem = given.problem(cluster or Cluster.uniform(3, 3, 2 * GB), exclusive=other.pop("exclusive", False))
    router = Queues(problem, other.pop("plan", Plan((Replica(0, 0), Replica(1, 0)))), nodes)
    return Elastic(problem, router, 4, {0: load_s})


def test_a_copy_is_wanted_by_the_length_of_the_queue_and_what_a_load_takes(tmp_path: Path) -> None:
    assert elastic(tmp_path, 3).wanted(0.0) is None
    assert elastic(tmp_path, 4).wanted(0.0) == (Replica(0, 1), 4, 1)
    assert elastic(tmp_path, 4, load_s=5.0).wanted(0.0) is None
    assert elastic(tmp_path, 7, plan=Plan((Replica(0, 0), Replica(0, 1), Replica(1, 0)))).wanted(0.0) is None
    one = elastic(tmp_path, 20)
    one.refuse(0)
    assert one.wanted(0.0) is None


def test_a_copy_comes_to_idle_devices_then_fast_ones_and_not_beside_others_where_each_has_its_own(
    tmp_path: Path,
) -> None:
    one = elastic(tmp_path, 9, cluster=Cluster((0, 0, 0), (2 * GB,) * 3, (1.0, 2.0, 1.0)))
    assert one.wanted(0.0) == (Replica(0, 2), 9, 1)
    one = elastic(tmp_path, 9)
    one.router.open[0] = 0b101
    assert one.wanted(0.0) == (Replica(0, 2), 9, 1)
    assert one.wanted(0.1) is None  # it has just looked
    assert one.wanted(1.0) == (Replica(0, 1), 9, 1)
    assert one.wanted(2.0) is None  # all devices have it
    plan = Plan((Replica(0, 0), Replica(1, 1)))
    assert elastic(tmp_path, 9, plan=plan, exclusive=True).wanted(0.0) == (Replica(0, 2), 9, 1)


def test_a_further_copy_stays_with_its_group(tmp_path: Path) -> None:
    grouped = {**config("patient"), "groups": [["fragile", "judge"]]}
    two = Cluster.uniform(4, 2, 2 * GB)
    one = elastic(tmp_path, 9, cluster=two, config=grouped)
    assert one.wanted(0.0) == (Replica(0, 1), 9, 1)
    assert one.wanted(1.0) is None


def test_the_command_says_what_it_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "simple_config.json", config("patient"))
    write(tmp_path / "simple_requests.yaml", asked(copies=2))
    words = ("--gpus", "2", "--gpu-memory", "2GB", "--replicas", "1", "--effort", "500")
    assert main(["plan", *words, "--json", "plan.json"]) == 0
    assert main(["run", "plan.json", "--eager", "--elastic", "2", "--check"]) == 0
    told = capsys.readouterr().out
    assert "Added: fragile on GPU " in told
    assert "none differs" in told
    log = json.loads((tmp_path / "static_execution_log.json").read_text())
    assert all("fragile" in one["assigned_models"] for one in log["gpu_assignments"].values())
    assert main(["run", "plan.json", "--eager", "--elastic", "0"]) == 2


# -- gangs -------------------------------------------------------------------------------------------------------------


def test_a_gang_is_one_process_with_a_thread_for_each_device_and_runs_alone_on_them(tmp_path: Path) -> None:
    given = workload(tmp_path, rows(), config("place", 2))
    plan = Plan((Replica(0, 0), Replica(0, 2), Replica(1, 0)))
    ran = execute(given, Cluster.uniform(4, 4, 4 * GB), plan, Options(compiled=False, keep=True, warm=1), offline=True)
    assert not ran.failures
    places = {results["first"].item() for results in ran.results.values()}
    assert len(places) == 2
    assert {16 * (one % 1) for one in places} == {2.0}
    assert os.getpid() not in {int(one) for one in places}
    outcome = ran.planned.outcome
    for device in (0, 1):
        mine = sorted(
            (outcome.start[n], outcome.end[n])
            for n, replica in enumerate(outcome.replica.tolist())
            if replica == 0 or (replica == 2 and device == 0)
        )
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(mine))


@pytest.mark.parametrize("copies", [1, 2])
def test_a_gang_that_dies_leaves_its_requests_to_another_or_a_reason(tmp_path: Path, copies: int) -> None:
    requests = rows()
    requests[8]["data"] |= {"then": "die once", "mark": str(tmp_path / "died")}
    plan = Plan((*(Replica(0, 2 * n) for n in range(copies)), Replica(1, 0)))
    given = workload(tmp_path, requests, config("place", 2))
    ran = execute(given, Cluster.uniform(2 * copies, 2 * copies, 4 * GB), plan,
                  Options(compiled=False, keep=True, warm=1), offline=True)  # fmt: skip
    assert len(ran.lost) == 1
    assert "devices" in ran.lost[0]
    done = {name for name, results in ran.results.items() if name not in ran.failures and "first" in results}
    assert done | ran.failures.keys() == {f"req_{n}" for n in range(20)}
    assert ("req_8" in ran.failures) == (copies == 1)
    assert bool(ran.failures) == (copies == 1)
    assert set(ran.failures.values()) <= set(ran.lost)
