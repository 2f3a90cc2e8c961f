"""What is emitted for Ray Serve, deployed on a Ray of this machine, answers every workflow by the planned copies."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from djinn_fx.deploy.command import main
from djinn_fx.deploy.serving.ray_app import deployment_name
from tests.deploy.files import CONFIG, write, write_served

ROOT = Path(__file__).resolve().parents[2]


def missing() -> str:
    """What Ray Serve lacks here; empty where it is all there."""
    for name in ("ray", "starlette", "fastapi", "uvicorn", "aiohttp", "ray.serve"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"Ray Serve needs {name}, which cannot be imported ({error}): pip install 'djinn-fx[serve]'"
    return ""


@pytest.mark.exam
def test_a_deployed_file_answers_every_workflow_from_the_planned_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks := missing():
        pytest.skip(lacks)
    write_served(tmp_path, "tests.deploy.served_models")
    monkeypatch.chdir(tmp_path)
    # Two copies of a model at most: each is a process, and this machine may be small.
    assert main(["plan", "--gpus", "8", "--replicas", "2", "--effort", "1500", "--json", "plan.json"]) == 0
    assert main(["emit", "plan.json", "--ray-serve", "serve.yaml", "--eager"]) == 0
    asked = [{"workflow": name, "data": {"number": n}} for n in (2, 3) for name in CONFIG["workflows"]]
    write(tmp_path / "asked.json", asked)
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.serve_here", str(tmp_path / "serve.yaml"), str(tmp_path / "asked.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    planned = json.loads((tmp_path / "plan.json").read_text())["replicas"]
    wanted = Counter((deployment_name(one["model"], one["server_id"]), str(one["server_id"])) for one in planned)
    there = Counter((name, server) for name, servers in found["replicas"].items() for server in servers)
    assert there - Counter({("router", server): 1 for server in "01"}) == wanted
    for request, answer in zip(asked, found["answers"], strict=True):
        nodes = {one["id"]: one["model"] for one in CONFIG["workflows"][request["workflow"]]["nodes"]}
        assert answer.keys() == nodes.keys()
        for node, one in answer.items():
            assert one["place"] in {name for name, _ in wanted if name.startswith(f"{nodes[node]}-server-")}
        number = float(request["data"]["number"])
        last = {"illustrate": ("draw", 7 * 3), "debate": ("verdict", 3 * (5 * 3 + 5 * 3))}[request["workflow"]]
        assert answer[last[0]]["result"] == [last[1] * number]
