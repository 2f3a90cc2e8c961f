"""Small configurations and requests, written into a folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "models": {
        "writer": {"memory_gb": 15, "gpus_required": 1, "tokens_per_second": 50.0, "token_mean": 400},
        "judge": {"memory_gb": 64, "gpus_required": 4, "inference_time_mean": 40.0},
        "painter": {"memory_gb": 8, "gpus_required": 1, "inference_time_mean": 2.0},
    },
    "workflows": {
        "illustrate": {
            "nodes": [{"id": "expand", "model": "writer", "outputs": ["prompt"]}, {"id": "draw", "model": "painter"}],
            "edges": [{"from": "expand", "to": "draw", "bytes": 1000}],
        },
        "debate": {
            "nodes": [
                {"id": "plan", "model": "writer"},
                {"id": "view_a", "model": "judge"},
                {"id": "view_b", "model": "judge"},
                {"id": "verdict", "model": "writer"},
            ],
            "edges": [
                {"from": "plan", "to": "view_a"},
                {"from": "plan", "to": "view_b"},
                {"from": "view_a", "to": "verdict"},
                {"from": "view_b", "to": "verdict"},
            ],
        },
    },
}
TIMES = {
    "illustrate": {"expand": 8.0, "draw": 2.0},
    "debate": {"plan": 8.0, "view_a": 40.0, "view_b": 44.0, "verdict": 6.0},
}


def requests(count: int = 12) -> list[dict[str, Any]]:
    """Requests of both workflows in turn, ten seconds apart."""
    kinds = list(TIMES)
    return [
        {
            "request_id": f"req_{n}",
            "timestamp": f"2026-03-02T{9 + n // 360:02d}:{n // 6 % 60:02d}:{n % 6 * 10:02d}.500",
            "workflow_id": kinds[n % 2],
            "node_execution_times": dict(TIMES[kinds[n % 2]]),
        }
        for n in range(count)
    ]


def write(path: Path, value: Any) -> Path:
    """A value as JSON or YAML, by the file's ending."""
    text = json.dumps(value, indent=1) if path.suffix == ".json" else yaml.safe_dump(value, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


def write_served(folder: Path, module: str) -> None:
    """The configuration above and its requests, under the names of the older form; a module has each model's entry."""
    config = copy.deepcopy(CONFIG)
    for name, model in config["models"].items():
        model["entry"] = f"{module}:{name}"
    write(folder / "simple_config.json", config)
    write(folder / "simple_requests.yaml", requests())
