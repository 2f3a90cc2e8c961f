"""The placement bench reads what it is given, says what is missing, and makes graphs that look as they should."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.placement.beside_accelerate import breaks_of
from bench.placement.inputs import disturbed, read_file, read_folder
from bench.placement.regret import layers_of
from bench.placement.solvers import solve
from bench.placement.synthetic import transformer
from djinn_fx.errors import SolverError
from djinn_fx.solvers.placement.problem import Aim, Goal

CONTENT: dict[str, Any] = {
    "maxSizePerFPGA": 10.0,
    "maxFPGAs": 2,
    "maxCPUs": 1,
    "nodes": [
        {
            "id": 7,
            "supportedOnFpga": 1,
            "cpuLatency": 9.0,
            "fpgaLatency": 2.0,
            "isBackwardNode": 0,
            "size": 4.0,
            "colorClass": 3,
        },
        {
            "id": 5,
            "supportedOnFpga": "False",
            "cpuLatency": 1.0,
            "fpgaLatency": 0.0,
            "isBackwardNode": 1,
            "size": 0,
            "colorClass": 4,
        },
    ],
    "edges": [{"sourceId": 7, "destId": 5, "cost": 0.5}],
}  # fmt: skip


def written(folder: Path, content: dict[str, Any], name: str = "throughput-inputs/LayerGraphs/some.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_file_is_read_whatever_its_numbers_are_written_as(tmp_path: Path) -> None:
    one = read_file(written(tmp_path, CONTENT))
    assert (one.name, one.latency, one.notes) == ("throughput-inputs/LayerGraphs/some", False, ())
    first, second = one.problem.operators
    assert (first.times_s, first.memory_bytes, first.output_bytes, first.group) == ((2.0, 9.0), 4.0, 0.5, 3)
    assert (second.times_s, second.backward) == ((math.inf, 1.0), True)
    assert [device.host for device in one.problem.devices] == [False, False, True]
    assert solve(one.problem, Goal()).solution.figure == 2.5  # 2 and the transfer; the host's 1 is beside it


def test_what_is_left_out_is_filled_in_and_said(tmp_path: Path) -> None:
    content = json.loads(json.dumps(CONTENT))
    del content["maxCPUs"]
    for node in content["nodes"]:
        del node["size"], node["colorClass"], node["isBackwardNode"]
    del content["edges"][0]["cost"]
    one = read_file(written(tmp_path, content))
    assert [operator.group for operator in one.problem.operators] == [None, None]
    assert {note.split(":")[0] for note in one.notes} == {
        "nodes without 'size'", "nodes without 'isBackwardNode'", "edges without 'cost'", "no 'maxCPUs'",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("where", "key"),
    [(None, "maxFPGAs"), (None, "nodes"), ("nodes", "id"), ("nodes", "fpgaLatency"), ("edges", "destId")],
)
def test_what_cannot_be_done_without_is_named(tmp_path: Path, where: str | None, key: str) -> None:
    content = json.loads(json.dumps(CONTENT))
    del (content if where is None else content[where][0])[key]
    path = written(tmp_path, content)
    with pytest.raises(SolverError, match=key):
        read_file(path)
    found, wrong = read_folder(tmp_path)
    assert found == []
    assert len(wrong) == 1
    assert key in wrong[0]


def test_an_edge_to_nowhere_is_named(tmp_path: Path) -> None:
    content = {**CONTENT, "edges": [{"sourceId": 7, "destId": 6, "cost": 0}]}
    with pytest.raises(SolverError, match="no node 6"):
        read_file(written(tmp_path, content))


def test_latency_files_are_told_by_their_folder_and_use_one_host(tmp_path: Path) -> None:
    content = {**CONTENT, "maxCPUs": 4}
    one = read_file(written(tmp_path, content, "latency-inputs/OperatorGraphs/some.json"))
    assert [goal.aim for goal in one.goals.values()] == [Aim.LATENCY]
    assert len(one.problem.devices) == 3
    assert solve(one.problem, Goal(Aim.LATENCY)).solution.figure == 3.5  # 2, then out, then 1


def test_an_experts_split_is_found_and_completed_by_groups(tmp_path: Path) -> None:
    nodes = [dict(CONTENT["nodes"][0], id=at, colorClass=at % 2, isBackwardNode=at > 1) for at in range(4)]
    edges = [{"sourceId": at, "destId": at + 1, "cost": 0.5} for at in range(3)]
    written(tmp_path, {**CONTENT, "nodes": nodes, "edges": edges}, "throughput-inputs/LayerGraphs/some_training.json")
    split = {"fpgas": [{"nodes": [0]}, {"nodes": [1]}], "cpus": [{"nodes": []}]}
    written(tmp_path, split, "human-experts/some_inference_expert.json")
    (one,), wrong = read_folder(tmp_path)
    assert wrong == []
    assert one.expert == (0, 1, 0, 1)


def test_a_sibling_is_the_same_graph_with_other_numbers() -> None:
    problem = transformer(1, 2, 3, training=True)
    other = disturbed(problem, random.Random(1))
    assert other.edges == problem.edges
    for one, was in zip(other.operators, problem.operators, strict=True):
        assert one != was
        assert (one.group, one.backward) == (was.group, was.backward)
        assert 0.79 < one.times_s[0] / was.times_s[0] < 1.21


def test_a_backward_pass_mirrors_the_forward_one() -> None:
    forward, both = transformer(2, 3, 4), transformer(2, 3, 4, training=True)
    count = len(forward.operators)
    assert len(both.operators) == 2 * count
    assert all(both.operators[count + at].times_s[0] == 2 * forward.operators[at].times_s[0] for at in range(count))
    assert {(count + user, count + source) for source, user in forward.edges} <= set(both.edges)


def test_the_layers_of_a_model_are_its_longest_list() -> None:
    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.few = torch.nn.ModuleList([torch.nn.Identity()])
            self.layers = torch.nn.ModuleList([torch.nn.Identity() for _ in range(3)])

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Inner()

    assert layers_of(Outer()) == ("model.layers", 3)


def test_graph_breaks_are_counted() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = x.cos()
            torch._dynamo.graph_break()
            return made.sin()

    assert breaks_of(Broken(), {"x": torch.ones(2)}) == 1
    assert breaks_of(torch.nn.Linear(2, 2), {"input": torch.ones(1, 2)}) == 0
