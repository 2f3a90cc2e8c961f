"""``djinn deploy rebalance``: a plan that is deployed, brought to new traffic by few loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from djinn_fx.command_line import OK, add_json, json_target
from djinn_fx.deploy.arguments import add_input, workload_of
from djinn_fx.deploy.planning import Wish, simulated
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.deploy.telling import console, plan_file
from djinn_fx.errors import InfeasibleError
from djinn_fx.solvers.deployment.problem import Replica
from djinn_fx.solvers.deployment.rebalance import rebalance
from djinn_fx.solvers.deployment.search import EFFORT, Aim


def add_rebalance(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to argparse's."""
    made = actions.add_parser("rebalance", help="the fewest loads that bring a plan to new requests")
    made.add_argument("plan", type=Path, metavar="OLD.json", help="as `plan --json` writes it")
    add_input(made)
    made.add_argument("--objective", choices=[aim.value for aim in Aim], default=Aim.MAKESPAN.value)
    made.add_argument(
        "--slack", type=float, default=0.02, help="share by which a new plan may be better (default: 0.02)"
    )
    made.add_argument("--effort", type=int, default=EFFORT, help=f"node executions to simulate (default: {EFFORT})")
    add_json(made, "the new plan")
    made.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out; returns the exit code."""
    target = json_target(arguments.json)
    workload = workload_of(arguments)
    old, cluster = plan_file.read_plan(arguments.plan, workload.config)
    wish = Wish(offline=arguments.mode == "offline")
    problem = workload.problem(cluster, offline=wish.offline)
    found = rebalance(problem, old, Aim(arguments.objective), slack=arguments.slack, effort=arguments.effort)
    if found is None:
        raise InfeasibleError(
            f"{arguments.plan}: its {cluster.size} devices have no room for every model asked for now"
        )
    planned = simulated(workload, cluster, found.plan, wish)
    if not target.quiet:
        rows = (("the old plan", found.before), ("rebalanced", found.after), ("planned anew", found.anew))
        lines = [
            f"  {name}: makespan {one.measures.makespan:.2f}s, P99 {one.measures.p99:.2f}s, "
            f"{one.measures.crossings} cross-server communications"
            for name, one in rows
        ]
        print("\n".join(["With the new requests:", *lines, ""]))
        print(
            f"{found.loads} copies are loaded; after each step every model has one:"
            if found.steps
            else "Nothing moves."
        )
        for number, (step, one) in enumerate(found.steps, 1):
            print(f"  {number}. {step.value} {_copy(workload, one)}")
        print("\n" + console.metrics(planned))
    target.write(plan_file.text(planned))
    return OK


def _copy(workload: Workload, one: Replica) -> str:
    name = workload.model_names[one.model]
    gang = workload.config.models[name].gang
    return f"{name} on GPU {', '.join(str(gpu) for gpu in range(one.first, one.first + gang))}"
