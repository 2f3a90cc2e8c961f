"""``static_execution_log.json``: a run for other programs. Its JSON Schema lies beside this file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from djinn_fx.deploy.planning import Planned
from djinn_fx.deploy.telling.rows import Execution, device_rows, executions


def summary(planned: Planned, *, mode: str, simulate: bool, per_server: int) -> dict[str, Any]:
    """The figures of the whole."""
    found = planned.measures
    return {
        "total_requests": planned.problem.traffic.size,
        "completed_requests": found.completed,
        "total_nodes_executed": int((planned.outcome.replica >= 0).sum()),
        "mode": mode,
        "simulate": simulate,
        "gpus": list(range(planned.problem.cluster.size)),
        "makespan": found.makespan,
        "total_model_switches": 0,
        "total_switch_time": 0.0,
        "avg_request_response_time": found.mean,
        "median_request_response_time": found.median,
        "p99_request_response_time": found.p99,
        "throughput": found.throughput,
        "server_efficiency": found.efficiency,
        "intra_server_workflows": found.inside,
        "inter_server_workflows": found.across,
        "cross_server_communications": found.crossings,
        "cross_server_bytes": found.crossing_bytes,
        "gpus_per_server": per_server,
        "makespan_bounds": {
            "area": planned.bounds.area,
            "path": planned.bounds.path,
            "placement": planned.bounds.placement,
        },
    }


def assignments(planned: Planned) -> dict[str, Any]:
    """What each device and each server hosts."""
    rows = device_rows(planned)
    servers: dict[str, Any] = {}
    for row in rows:
        one = servers.setdefault(str(row.server), {"gpu_ids": [], "models": []})
        one["gpu_ids"].append(row.gpu)
        one["models"] = sorted({*one["models"], *row.models})
    return {
        "gpu_assignments": {
            str(row.gpu): {
                "server_id": row.server,
                "assigned_models": list(row.models),
                "utilization": row.utilization,
                "memory_bytes": row.memory,
            }
            for row in rows
        },
        "server_assignments": servers,
    }


def execution(one: Execution) -> dict[str, Any]:
    """One node, as a JSON value."""
    return {
        "request_id": one.request_id,
        "workflow_id": one.workflow_id,
        "node_id": one.node_id,
        "model_name": one.model_name,
        "gpu_id": one.gpu_ids[0],
        "gpu_ids": list(one.gpu_ids),
        "server_id": one.server_id,
        "start_time": one.start,
        "end_time": one.end,
        "execution_time": one.end - one.start,
        "estimated_time": one.estimated,
        "switch_time": 0.0,
        "waiting_time": one.start - one.ready,
    }


def pieces(
    planned: Planned, *, mode: str, simulate: bool, per_server: int, failures: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The JSON text, piece by piece: millions of executions are never one text in memory.

    Args:
        planned: the run.
        mode: "offline" or "online".
        simulate: whether models were called for real, in the word of the older form.
        per_server: devices.
        failures: for each request that did not end, why.
    """
    head = {"summary": summary(planned, mode=mode, simulate=simulate, per_server=per_server), **assignments(planned)}
    if failures:
        head["failures"] = [{"request_id": name, "reason": why} for name, why in failures.items()]
    yield json.dumps(head, indent=1)[:-2] + ',\n "executions": ['
    separator = "\n  "
    for one in executions(planned):
        yield separator + json.dumps(execution(one))
        separator = ",\n  "
    yield "\n ]\n}\n"
