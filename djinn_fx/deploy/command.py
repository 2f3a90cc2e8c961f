"""``djinn deploy plan | simulate | run | rebalance | emit``, and the older form with ``--gpus`` alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from djinn_fx.command_line import OK, FileTarget, carry_out, file_target, json_target
from djinn_fx.deploy import old_form
from djinn_fx.deploy.arguments import add_devices, add_input, add_search, cluster_of, wish_of, workload_of
from djinn_fx.deploy.emitting.command import add_emit
from djinn_fx.deploy.fewest import fewest_for
from djinn_fx.deploy.planning import Planned, Wish, make_plan, simulated
from djinn_fx.deploy.rebalancing import add_rebalance
from djinn_fx.deploy.running.command import add_run
from djinn_fx.deploy.telling import console, execution_log, page, plan_file
from djinn_fx.errors import SettingsError
from djinn_fx.solvers.deployment.placing import exact
from djinn_fx.solvers.deployment.search import surrogate

EPILOG = "Exit code: 0 done, 1 failed, 2 usage or bad input, 5 there is no room (the message says what would do)."


def parser() -> argparse.ArgumentParser:
    """The arguments of the commands."""
    made = argparse.ArgumentParser(
        prog="djinn deploy",
        description="Which model lives on which device, for workflows of several models.",
        epilog=EPILOG,
    )
    actions = made.add_subparsers(metavar="ACTION", required=True)
    plan = actions.add_parser("plan", help="find where models go")
    add_input(plan)
    add_devices(plan)
    add_search(plan)
    plan.set_defaults(run=_plan)
    run = actions.add_parser("simulate", help="say what a plan comes to")
    run.add_argument("plan", type=Path, metavar="PLAN.json", help="as `plan --json` writes it")
    add_input(run)
    run.add_argument("--log", metavar="FILE", help="write every execution as JSON")
    run.add_argument("--html", metavar="FILE", help="write a page with a Gantt chart")
    run.set_defaults(run=_simulate)
    add_run(actions)
    add_rebalance(actions)
    add_emit(actions)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Carry a command out; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].startswith("--") and words[0] not in ("--help", "-h"):
        return carry_out(old_form.parser(EPILOG), old_form.run, words, "djinn deploy")
    return carry_out(parser(), lambda arguments: int(arguments.run(arguments)), words, "djinn deploy")


def _plan(arguments: argparse.Namespace) -> int:
    target, html = json_target(arguments.json), file_target("--html", arguments.html)
    workload, wish = workload_of(arguments), wish_of(arguments)
    cluster = cluster_of(arguments)
    if arguments.objective == "devices":
        if arguments.slo_p99 is None:
            raise SettingsError("--objective devices: give --slo-p99 SECONDS, which the fewest devices are to keep")
        planned = fewest_for(workload, cluster, wish, arguments.slo_p99)
    else:
        planned = make_plan(workload, cluster, wish)
    if not target.quiet:
        parts = [part(planned) for part in (console.assignment, console.prices, console.proof, console.front)]
        parts += [_proved(planned, arguments.exact)] if arguments.exact is not None else []
        print("\n\n".join(text for text in (*parts, console.metrics(planned)) if text))
    target.write(plan_file.text(planned))
    _write_page(html, planned)
    return OK


def _proved(planned: Planned, seconds: float) -> str:
    """What CP-SAT proves of the least load of the busiest device, beside the plan's own."""
    proved = exact.solve(planned.problem, seconds, hint=planned.plan)
    mine = surrogate(planned.problem, planned.plan.replicas)[0]
    if proved is None:
        return f"Exact: nothing was found within {seconds:g}s"
    return (
        f"Exact: the busiest device works {proved.load:.2f}s at least, proved within {100 * proved.gap:.2f}%; that of "
        f"the plan works {mine:.2f}s. Queues, and so P99, are not in this model"
    )


def _simulate(arguments: argparse.Namespace) -> int:
    log, html = file_target("--log", arguments.log), file_target("--html", arguments.html)
    workload = workload_of(arguments)
    plan, cluster = plan_file.read_plan(arguments.plan, workload.config)
    planned = simulated(workload, cluster, plan, Wish(offline=arguments.mode == "offline"))
    if not log.quiet:
        print("\n\n".join((console.assignment(planned), console.proof(planned), console.metrics(planned))))
    per_server = max(map(len, cluster.servers))
    pieces = execution_log.pieces(planned, mode=arguments.mode, simulate=False, per_server=per_server)
    if arguments.log is not None:
        log.write("".join(pieces).rstrip("\n"))
    _write_page(html, planned)
    return OK


def _write_page(target: FileTarget, planned: Planned) -> None:
    if target.path is not None or target.quiet:
        target.write(page.html(planned))
