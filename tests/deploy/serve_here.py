"""A file of Ray Serve deployed on a Ray of two servers on this machine, and asked: run as a program by its test.

    python -m tests.deploy.serve_here serve.yaml requests.json

Prints one line of JSON: for each deployment its copies and the servers of their processes, and every answer over HTTP.
The devices are Ray's word for them alone: no GPU is needed. Ray asks for a token, as everywhere here.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import yaml


def main(file: str, asked: str) -> None:
    """Deploy, ask, end."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0", "RAY_DEDUP_LOGS": "0"}
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **quiet})
    import ray  # after the token: Ray reads it when it is imported
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="dj-", dir="/tmp")
    given = {"num_cpus": 4, "num_gpus": 4, "object_store_memory": 128 * 2**20, "include_dashboard": False}
    cluster: Any = Cluster()
    try:
        for server in range(2):
            cluster.add_node(labels={"djinn-server": str(server)}, temp_dir=folder, **given)
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        found = _asked(yaml.safe_load(Path(file).read_text()), json.loads(Path(asked).read_text()))
        print(json.dumps(found), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _asked(config: dict[str, Any], requests: list[Any]) -> dict[str, Any]:
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    client = serve_start(http_options={"host": "127.0.0.1", "port": port})
    client.deploy_apps(ServeDeploySchema.model_validate(config), _blocking=True)
    try:
        answers = []
        for request in requests:
            message = urllib.request.Request(
                f"http://127.0.0.1:{port}/", json.dumps(request).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(message, timeout=120) as answer:
                answers.append(json.load(answer))
        return {"replicas": _replicas(), "answers": answers}
    finally:
        serve.shutdown()


def _replicas() -> dict[str, list[str]]:
    """For each deployment the server of each of its processes."""
    import ray
    from ray._private.state import actors

    server = {node["NodeID"]: node["Labels"].get("djinn-server", "") for node in ray.nodes()}
    found: dict[str, list[str]] = {}
    for one in actors().values():
        name = re.fullmatch(r"SERVE_REPLICA::djinn#([^#]+)#.*", one["Name"])
        if name and one["State"] == "ALIVE":
            found.setdefault(name[1], []).append(server[one["Address"]["NodeID"]])
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
