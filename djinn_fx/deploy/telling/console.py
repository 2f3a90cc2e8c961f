"""A run as text, section by section."""

from __future__ import annotations

from collections import Counter

import numpy as np

from djinn_fx.deploy.planning import Planned
from djinn_fx.deploy.telling.rows import device_rows
from djinn_fx.units import format_bytes

_LINE = "=" * 60


def assignment(planned: Planned) -> str:
    """Which models are on which device."""
    rows = device_rows(planned)
    lines = ["Model-to-GPU assignment:"]
    for row in rows:
        models = ", ".join(row.models) or "nothing"
        lines.append(f"  GPU {row.gpu} (Server {row.server}): {models}; {format_bytes(row.memory)}")
    return "\n".join(lines)


def prices(planned: Planned) -> str:
    """What cost models said of models that came without times or memory; empty where they were not asked."""
    rows = [(one.name, one.price) for one in planned.workload.config.models.values() if one.price is not None]
    if not rows:
        return ""
    lines = ["Priced by cost models, one call (80 % interval, source):"]
    for name, one in rows:
        times = f"{1e3 * one.time_s:.3g} ms ({1e3 * one.low_s:.3g} to {1e3 * one.high_s:.3g}, {one.provenance})"
        lines.append(f"  {name}: {times} on {one.device}; {format_bytes(one.memory)} at its peak")
    return "\n".join(lines)


def metrics(planned: Planned) -> str:
    """What came of it."""
    found, rows = planned.measures, device_rows(planned)
    used = np.array([row.utilization for row in rows])
    names = np.array(planned.workload.model_names)
    counts = Counter(names[planned.problem.model_of[planned.outcome.replica >= 0]].tolist())
    lines = [
        _LINE,
        "EXECUTION METRICS",
        _LINE,
        f"Total execution time (makespan): {found.makespan:.2f} seconds",
        f"Completed requests: {found.completed} of {planned.problem.traffic.size} ({found.throughput:.4f} a second)",
        "",
        "Static deployment metrics:",
        f"  Server efficiency: {found.efficiency:.1f}%",
        f"  Intra-server workflows: {found.inside}",
        f"  Inter-server workflows: {found.across}",
        f"  Cross-server communications: {found.crossings}{_bytes(found.crossing_bytes)}",
        "",
        "Request completion times:",
        f"  Average: {found.mean:.2f}s",
        f"  Median: {found.median:.2f}s",
        f"  P99: {found.p99:.2f}s",
        f"  Min: {found.least:.2f}s",
        f"  Max: {found.most:.2f}s",
        "",
        "GPU utilization:",
        *(
            f"  GPU {row.gpu} (Server {row.server}): {row.executions} executions, {row.busy_s:.2f}s busy time "
            f"({row.utilization:.1f}% utilization), Models: {', '.join(row.models) or 'none'}"
            for row in rows
        ),
        "",
        "Overall GPU statistics:",
        f"  Average utilization: {used.mean():.1f}%",
        f"  Utilization variance: {used.var():.1f} %²",
        "",
        "Model execution counts:",
        *(f"  {model}: {count} executions" for model, count in sorted(counts.items())),
        "",
        "Model switching:",
        "  Total switches: 0",
        "  Total switch time: 0.00 seconds",
        "  Switch overhead: 0.0%",
    ]
    return "\n".join(lines)


def _bytes(count: int) -> str:
    return f" ({format_bytes(count)})" if count else ""


def proof(planned: Planned) -> str:
    """How good the plan is known to be."""
    bounds, found = planned.bounds, planned.measures
    lines = [
        "Bounds of any plan's makespan:",
        f"  by work on all devices: {bounds.area:.2f}s",
        f"  by the longest request: {bounds.path:.2f}s",
    ]
    if bounds.placement:
        lines.append(f"  by copies, one model a device: {bounds.placement:.2f}s")
    if bounds.makespan:
        lines.append(f"  the plan is {100 * (found.makespan / bounds.makespan - 1):.2f}% above the largest of them")
    discipline = planned.plan.discipline
    lines.append(
        "Queues: "
        + ("who has the longest way left first" if discipline.by_path else "first come, first served by request")
        + (f"; a server changes gangs for nodes {discipline.hold} places older" if discipline.hold else "")
        + ("; a request stays in one server where that has all of its models" if discipline.local else "")
    )
    return "\n".join(lines)


def front(planned: Planned) -> str:
    """Plans none of which is better than another in everything; empty where there is one."""
    if planned.found is None or len(planned.found.front) < 2:
        return ""
    lines = ["Also found (makespan, P99, cross-server communications, server efficiency):"]
    for one in planned.found.front[:8]:
        here = one.measures
        text = f"  {here.makespan:.2f}s  {here.p99:.2f}s  {here.crossings}  {here.efficiency:.1f}%"
        lines.append(text + ("  <- chosen" if one.plan == planned.plan else ""))
    return "\n".join(lines)
