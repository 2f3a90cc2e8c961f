"""What is emitted is what the plan says, in the forms of Ray Serve and Kubernetes, and models answer behind it."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from djinn_fx.deploy.command import main
from djinn_fx.deploy.serving.entry import load_entry
from djinn_fx.deploy.serving.host import server_of
from djinn_fx.deploy.serving.ray_app import Router, deployment_name
from djinn_fx.errors import ModelFailedError, ModelFileError
from tests.deploy.files import CONFIG, write, write_served

MODELS = "tests.deploy.served_models"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration whose models have entries."""
    write_served(tmp_path, MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*words: str) -> dict[str, Any]:
    assert main(["plan", "--gpus", "8", "--effort", "1500", "--json", "plan.json", *words]) == 0
    found: dict[str, Any] = json.loads(Path("plan.json").read_text())
    return found


def test_ray_serve_gets_a_deployment_for_each_model_and_server(here: Path) -> None:
    plan = planned()
    assert main(["emit", "plan.json", "--ray-serve", "serve.yaml"]) == 0
    (application,) = yaml.safe_load((here / "serve.yaml").read_text())["applications"]
    wanted = Counter((one["model"], one["server_id"]) for one in plan["replicas"])
    made = {one["name"]: one for one in application["deployments"] if one["name"] != "router"}
    assert {name: one["num_replicas"] for name, one in made.items()} == {
        deployment_name(model, server): count for (model, server), count in wanted.items()
    }
    for (model, server), _count in wanted.items():
        one = made[deployment_name(model, server)]
        if model == "judge":
            assert one["placement_group_strategy"] == "STRICT_PACK"
            assert one["placement_group_bundles"] == [{"GPU": 0.2}] * 4
            assert one["placement_group_bundle_label_selector"] == [{"djinn-server": str(server)}] * 4
        else:
            assert one["ray_actor_options"]["label_selector"] == {"djinn-server": str(server)}
    schema = pytest.importorskip("ray.serve.schema", reason="Ray Serve is not installed", exc_type=ImportError)
    schema.ServeDeploySchema.model_validate(yaml.safe_load((here / "serve.yaml").read_text()))


def test_kubernetes_gets_claims_pods_and_groups(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned("--exclusive")
    assert main(["emit", "plan.json", "--kubernetes", "k8s", "--image", "mine:1"]) == 0
    documents = [one for file in sorted((here / "k8s").iterdir()) for one in yaml.safe_load_all(file.read_text())]
    kinds = Counter(one["kind"] for one in documents)
    assert kinds["Pod"] == len(plan["replicas"])
    claims = {one["metadata"]["name"]: one for one in documents if one["kind"] == "ResourceClaimTemplate"}
    counts = {name: one["spec"]["spec"]["devices"]["requests"][0]["exactly"]["count"] for name, one in claims.items()}
    assert counts == {"djinn-gang-1": 1, "djinn-gang-4": 4}
    groups = {one["metadata"]["name"]: one["spec"]["minMember"] for one in documents if one["kind"] == "PodGroup"}
    pods = [one for one in documents if one["kind"] == "Pod"]
    assert groups == Counter(one["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] for one in pods)
    assert {one["spec"]["containers"][0]["image"] for one in pods} == {"mine:1"}
    planned()
    assert main(["emit", "plan.json", "--kubernetes", "k8s"]) == 2
    assert "--exclusive" in capsys.readouterr().err


def test_without_an_entry_nothing_is_emitted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned()
    write(here / "simple_config.json", CONFIG)
    assert main(["emit", "plan.json", "--ray-serve", "serve.yaml"]) == 2
    told = capsys.readouterr().err
    assert "simple_config.json:" in told
    assert "`entry`" in told
    assert main(["emit", "plan.json"]) == 2


def test_entries_are_modules_or_make_them() -> None:
    data = {"number": 2.0}
    assert load_entry(f"{MODELS}:writer").answer(data, {}).tolist() == [6.0]
    two = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    assert load_entry(f"{MODELS}:painter").answer(data, two).tolist() == [21.0]
    for text, error in (
        ("nothing", ModelFileError),
        ("no.such:thing", ModelFileError),
        (f"{MODELS}:nobody", ModelFileError),
        (f"{MODELS}:odd", ModelFileError),
        (f"{MODELS}:broken", ModelFailedError),
    ):
        with pytest.raises(error, match=r"entry"):
            load_entry(text)


def test_a_copy_answers_over_http() -> None:
    server = server_of(load_entry(f"{MODELS}:writer"), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/"

        def ask(value: Any) -> Any:
            with urllib.request.urlopen(address, json.dumps(value).encode(), timeout=30) as answer:
                return json.load(answer)

        assert ask({"data": {"number": 2}}) == {"result": [6.0]}
        assert ask({"results": {"a": [1.0], "b": [2.0]}}) == {"result": [9.0]}
        with pytest.raises(urllib.error.HTTPError) as told:
            ask({"data": {}})
        assert "KeyError" in json.load(told.value)["error"]
        with urllib.request.urlopen(address, timeout=30) as ready:
            assert json.load(ready) == {"ready": True}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handle:
    """Stands for a deployment of Serve's."""

    def __init__(self, name: str, factor: float) -> None:
        self.name, self.factor, self.answer = name, factor, self

    async def remote(self, data: dict[str, Any], results: dict[str, Any]) -> tuple[str, Any]:
        await asyncio.sleep(0)
        return self.name, self.factor * (sum(results.values()) if results else data["number"])


def test_the_router_keeps_a_request_in_one_server_where_it_can() -> None:
    workflows = {
        "diamond": [
            {"name": "a", "model": "one", "before": []},
            {"name": "b", "model": "two", "before": ["a"]},
            {"name": "c", "model": "two", "before": ["a"]},
            {"name": "d", "model": "one", "before": ["b", "c"]},
        ],
        "wide": [{"name": "a", "model": "one", "before": []}, {"name": "b", "model": "three", "before": ["a"]}],
    }
    hosted = {"one": [0, 1], "two": [1], "three": [2]}
    handles = {
        deployment_name(model, server): Handle(deployment_name(model, server), factor)
        for model, factor in (("one", 2.0), ("two", 3.0), ("three", 5.0))
        for server in hosted[model]
    }
    router = Router(workflows, hosted, handles)
    found = asyncio.run(router.run("diamond", {"number": 1.0}))
    assert {one["place"].rpartition("-")[2] for one in found.values()} == {"1"}
    assert found["d"]["result"] == 2.0 * (6.0 + 6.0)
    wide = asyncio.run(router.run("wide", {"number": 1.0}))
    assert wide["b"] == {"place": "three-server-2", "result": 10.0}
    assert set(router.under_way.values()) == {0}
    with pytest.raises(ValueError, match="no workflow"):
        asyncio.run(router.run("none", {}))
