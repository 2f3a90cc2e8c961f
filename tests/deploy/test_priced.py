"""Models with an entry and neither times nor memory are priced by cost models, and their peak is foretold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from djinn_fx.deploy import telling
from djinn_fx.deploy.command import main
from tests.deploy.files import write

HERE = "tests.deploy.served_models"
CONFIG: dict[str, Any] = {
    "models": {
        "stack": {"entry": f"{HERE}:stack"},
        "layer": {"entry": f"{HERE}:layer", "memory_gb": 7},
        "given": {"entry": f"{HERE}:stack", "memory_gb": 1, "inference_time_mean": 3.0},
    },
    "workflows": {
        "pair": {
            "nodes": [{"id": "a", "model": "stack"}, {"id": "b", "model": "layer"}, {"id": "c", "model": "given"}],
            "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}],
        },
        "large": {"nodes": [{"id": "a", "model": "stack"}], "edges": []},
    },
}
WEIGHTS = 4 * (256 * 1024 + 1024 + 1024 * 256 + 256)


def requests() -> list[dict[str, Any]]:
    """A small call, then one of 64 times as many rows; some nodes say how long they take."""
    return [
        {"request_id": "r0", "timestamp": 0, "workflow_id": "pair", "node_execution_times": {"c": 3.0},
         "data": {"rows": 64}},
        {"request_id": "r1", "timestamp": 1, "workflow_id": "large", "data": {"rows": 4096}},
        {"request_id": "r2", "timestamp": 2, "workflow_id": "large", "node_execution_times": {"a": 2.5}},
    ]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "simple_config.json", CONFIG)
    write(tmp_path / "simple_requests.yaml", requests())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DJINN_DEVICE", "h100-sxm")
    return tmp_path


def test_what_is_missing_is_priced_and_what_is_given_stays(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "2", "--effort", "100", "--json", "plan.json", "--mode", "online"]) == 0
    told = capsys.readouterr().out
    assert "Priced by cost models" in told
    plan = json.loads((here / "plan.json").read_text())
    schema = json.loads((Path(telling.__file__).parent / "plan.schema.json").read_text())
    jsonschema.validate(plan, schema)
    stack, layer, given = (plan["models"][name] for name in ("stack", "layer", "given"))
    for one in (stack, layer):
        price = one["price"]
        assert 0 < price["low_s"] <= price["time_s"] <= price["high_s"]
        assert price["provenance"] == "datasheet"
        assert price["device"] == "h100-sxm"
    # At its peak the largest call has the weights, what comes in and what the first product makes.
    assert stack["memory_bytes"] == stack["price"]["memory"] >= WEIGHTS + 4 * 4096 * (256 + 1024)
    assert stack["memory_bytes"] < 2 * (WEIGHTS + 4 * 4096 * (256 + 1024))
    assert layer["memory_bytes"] == 7 * 10**9
    assert (given["expected_s"], "price" in given) == (3.0, False)
    assert main(["simulate", "plan.json", "--mode", "online", "--log", "log.json"]) == 0
    log = json.loads((here / "log.json").read_text())["executions"]
    took = {(one["request_id"], one["node_id"]): one["execution_time"] for one in log}
    assert took["r0", "c"] == 3.0
    assert took["r2", "a"] == 2.5
    assert 0 < took["r0", "a"] < took["r1", "a"] == pytest.approx(stack["price"]["time_s"])
    assert took["r0", "b"] == pytest.approx(layer["price"]["time_s"])
    assert main(["emit", "plan.json", "--ray-serve", "serve.yaml"]) == 0
    (application,) = yaml.safe_load((here / "serve.yaml").read_text())["applications"]
    shares = {one["name"]: one["ray_actor_options"]["num_gpus"] for one in application["deployments"][:-1]}
    assert shares["stack-server-0"] == int(10_000 * stack["memory_bytes"] / 80e9) / 10_000


def broken(change: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    config, asked = json.loads(json.dumps(CONFIG)), requests()
    if change == "no data":
        del asked[0]["data"]
    elif change == "no such entry":
        config["models"]["stack"]["entry"] = f"{HERE}:stick"
    elif change == "no entry":
        del config["models"]["stack"]["entry"]
    elif change == "misspelt":
        config["models"]["stack"]["memory_bg"] = 3
    elif change == "no entry before":
        config["models"]["stack"] = {"memory_gb": 1, "inference_time_mean": 1.0}
        asked = [{**asked[0], "node_execution_times": {"a": 1.0, "c": 3.0}}]
    return config, asked


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("no data", ("simple_config.json:3", "node 'a' of the first request for 'pair'", "'rows'", "`data`")),
        ("no such entry", ("simple_config.json:3", "stick")),
        ("no entry", ("simple_config.json:3", "memory_gb is missing", "simple_requests.yaml:", "lacks the node 'a'")),
        ("misspelt", ("simple_config.json:3", "did you mean 'memory_bg'")),
        ("no entry before", ("no `entry`",)),
    ],
)
def test_who_cannot_be_priced_is_told_with_its_line(
    here: Path, capsys: pytest.CaptureFixture[str], change: str, told: tuple[str, ...]
) -> None:
    config, asked = broken(change)
    write(here / "simple_config.json", config)
    write(here / "simple_requests.yaml", asked)
    assert main(["plan", "--gpus", "2", "--effort", "100"]) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in told), error
    assert "Traceback" not in error
