"""``djinn deploy run``: a plan carried out on this machine, models called for real."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_fx.command_line import FOUND_WRONG, OK
from djinn_fx.deploy.arguments import add_input, workload_of
from djinn_fx.deploy.planning import Planned, Wish, simulated
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.deploy.running.elastic import QUEUE
from djinn_fx.deploy.telling import console, files
from djinn_fx.deploy.telling.plan_file import is_exclusive, read_plan
from djinn_fx.errors import SettingsError

if TYPE_CHECKING:
    from djinn_fx.deploy.running.crew import Options
    from djinn_fx.deploy.running.runner import Ran

#: Failed requests that are printed.
_SHOWN = 10


def add_run(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to argparse's."""
    made = actions.add_parser("run", help="carry a plan out on this machine, models called for real")
    made.add_argument("plan", type=Path, metavar="PLAN.json", help="as `plan --json` writes it")
    add_input(made)
    made.add_argument("--eager", action="store_true", help="models run as they are, not compiled by djinn")
    made.add_argument("--check", action="store_true", help="afterwards run every node again, eager, and compare")
    made.add_argument(
        "--warm", type=int, default=2, metavar="N", help="runs of each node before the start (default: 2)"
    )
    made.add_argument(
        "--load-timeout", type=float, default=600.0, metavar="SECONDS", help="to load models (default: 600)"
    )
    made.add_argument(
        "--node-timeout", type=float, default=600.0, metavar="SECONDS", help="that a node may take (default: 600)"
    )
    made.add_argument(
        "--elastic",
        type=int,
        nargs="?",
        const=QUEUE,
        metavar="N",
        help=f"load further copies, where memory is left, of models with N waiting nodes for each (N: {QUEUE})",
    )
    made.add_argument("--out", type=Path, default=Path(), metavar="DIR", help=f"for {files.EXECUTIONS}, {files.LOG}")
    made.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out; returns the exit code."""
    for flag, value in (("--load-timeout", arguments.load_timeout), ("--node-timeout", arguments.node_timeout)):
        if not (math.isfinite(value) and value > 0):
            raise SettingsError(f"{flag} {value:g}: give seconds above 0")
    if arguments.warm < 0:
        raise SettingsError(f"--warm {arguments.warm}: give a number of at least 0")
    if arguments.elastic is not None and arguments.elastic < 1:
        raise SettingsError(f"--elastic {arguments.elastic}: give a number of at least 1")
    if not arguments.out.is_dir():
        raise SettingsError(f"--out {arguments.out}: there is no such directory")
    workload = workload_of(arguments, data=True)
    needs_entries(workload)
    plan, cluster = read_plan(arguments.plan, workload.config)
    planned = simulated(workload, cluster, plan, Wish(offline=arguments.mode == "offline"))
    # With torch, which other commands do without: it takes seconds to import.
    from djinn_fx.deploy.running.crew import Options

    options = Options(
        compiled=not arguments.eager,
        check=arguments.check,
        warm=arguments.warm,
        load_s=arguments.load_timeout,
        node_s=arguments.node_timeout,
        queue=arguments.elastic,
        exclusive=arguments.elastic is not None and is_exclusive(arguments.plan),
    )
    return carried_out(planned, arguments.out, mode=arguments.mode, options=options)[0]


def needs_entries(workload: Workload) -> None:
    """Models that are asked for must say what they are.

    Raises:
        SettingsError: some have no ``entry``; all of them are named.
    """
    asked = {workload.config.workflows[workload.workflow_names[n]] for n in set(workload.traffic.workflow.tolist())}
    wanted = {node.model for nodes in asked for node in nodes}
    without = [one for one in workload.config.models.values() if one.name in wanted and not one.entry]
    if without:
        raise SettingsError(
            f"{without[0].place}: to call models for real each needs an `entry` (package.module:name of an nn.Module, "
            f"or of a function that makes one); these have none: {', '.join(one.name for one in without)}"
        )


def carried_out(
    planned: Planned, folder: Path, *, mode: str, options: Options | None = None, quiet: bool = False
) -> tuple[int, Planned]:
    """Run a plan, print and write what came of it; returns the exit code, and the plan with what really happened."""
    from djinn_fx.deploy.running.crew import Options
    from djinn_fx.deploy.running.runner import execute

    options = options or Options()
    ran = execute(planned.workload, planned.problem.cluster, planned.plan, options, offline=mode == "offline")
    text = "\n\n".join((console.assignment(planned), console.metrics(ran.planned), _told(planned, ran, options.check)))
    files.write(ran.planned, text, folder, mode=mode, simulate=True, failures=ran.failures)
    if not quiet:
        print(f"{text}\n\nDetailed execution log written to {folder / files.EXECUTIONS}")
    return (FOUND_WRONG if ran.failures or ran.different else OK), ran.planned


def _told(planned: Planned, ran: Ran, check: bool) -> str:
    devices = ran.planned.measures.devices
    lines = [
        "Called for real:",
        f"  Loaded and warm after {ran.load_s:.2f}s, which is not counted above",
        f"  Simulated, by the file's times: makespan {planned.measures.makespan:.2f}s, P99 {planned.measures.p99:.2f}s",
    ]
    if ran.cores and devices > ran.cores:
        lines.append(f"  {devices} devices share {ran.cores} cores: they take each other's time")
    if check:
        differ = (
            f"{len(ran.different)} differ: {', '.join(ran.different[:_SHOWN])}" if ran.different else "none differs"
        )
        lines.append(f"  {ran.checked} results compared with eager: {differ}")
    names, models = planned.workload.model_names, planned.workload.config.models
    for one in ran.added:
        first, gang = one.replica.first, models[names[one.replica.model]].gang
        lines.append(
            f"  Added: {names[one.replica.model]} on GPU {', '.join(map(str, range(first, first + gang)))} after "
            f"{one.at:.2f}s: {one.waiting} nodes waited for {one.copies} at {one.asked:.2f}s"
        )
    lines += [f"  Lost: {why}" for why in ran.lost]
    lines += [f"  Request {name} did not end: {why}" for name, why in list(ran.failures.items())[:_SHOWN]]
    if len(ran.failures) > _SHOWN:
        lines.append(f"  ... and {len(ran.failures) - _SHOWN} more; all are in the log")
    return "\n".join(lines)
