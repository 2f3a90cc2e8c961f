"""What torch's structured trace holds of a compiled graph, for tlparse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CODE = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
compiled = torch.compile(model, backend="djinn", options={"engine": "eager"})
with torch.no_grad():
    compiled(torch.zeros(2, 8))
"""


def test_the_graph_and_the_plan_are_artifacts_of_torchs_trace(repo: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TORCH_TRACE": str(tmp_path), "PYTHONPATH": str(repo)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("*.log")
    found = artifacts(log.read_text("utf-8"))
    assert found["djinn_srg"].startswith("# srg")
    assert "aten.relu" in found["djinn_srg"]
    plan = json.loads(found["djinn_plan"])
    assert plan["schema"].startswith("djinn_fx.plan/")
    assert [len(region["nodes"]) for region in plan["regions"]] == [3]


def artifacts(log: str) -> dict[str, str]:
    """The payloads by name: a line of JSON names each, tabs indent it."""
    found: dict[str, list[str]] = {}
    name = None
    for line in log.splitlines():
        if line.startswith("\t"):
            if name is not None:
                found[name].append(line[1:])
            continue
        name = None
        _, brace, rest = line.partition(" {")
        entry = json.loads(brace.strip() + rest) if brace else {}
        if "artifact" in entry:
            name = entry["artifact"]["name"]
            found[name] = []
    return {name: "\n".join(lines) for name, lines in found.items()}
