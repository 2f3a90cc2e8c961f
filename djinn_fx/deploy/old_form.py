"""The older form: ``python -m djinn_fx.deploy --gpus 8 [--gpus-per-server 4] [--simulate true|false] ...``.

It plans, runs all requests and writes ``static_scheduler.log`` and ``static_execution_log.json`` into the current
folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from djinn_fx.command_line import OK, file_target, json_target
from djinn_fx.deploy.arguments import add_devices, add_input, add_search, cluster_of, wish_of, workload_of
from djinn_fx.deploy.planning import make_plan
from djinn_fx.deploy.running.command import carried_out, needs_entries
from djinn_fx.deploy.telling import console, files, page, plan_file


def parser(epilog: str) -> argparse.ArgumentParser:
    """Its arguments, and ours besides."""
    made = argparse.ArgumentParser(prog="python -m djinn_fx.deploy", description=__doc__.split("\n")[0], epilog=epilog)
    add_devices(made)
    add_input(made)
    add_search(made)
    made.add_argument("--simulate", type=_truth, default=False, help="true: call the models for real; as --execute")
    made.add_argument("--execute", action="store_true", help="call the models for real")
    return made


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() == "true"


def run(arguments: argparse.Namespace) -> int:
    """Plan, simulate or execute, write both files."""
    target, html = json_target(arguments.json), file_target("--html", arguments.html)
    real = arguments.simulate or arguments.execute
    workload, cluster = workload_of(arguments, data=real), cluster_of(arguments)
    if real:
        needs_entries(workload)
    planned = make_plan(workload, cluster, wish_of(arguments))
    code = OK
    if real:
        code, planned = carried_out(planned, Path(), mode=arguments.mode, quiet=target.quiet)
    else:
        parts = (console.assignment, console.prices, console.proof, console.metrics)
        text = "\n\n".join(filter(None, (part(planned) for part in parts)))
        files.write(planned, text, Path(), mode=arguments.mode, simulate=False)
        if not target.quiet:
            print(f"{text}\n\nDetailed execution log written to {files.EXECUTIONS}")
    target.write(plan_file.text(planned))
    if html.path is not None or html.quiet:
        html.write(page.html(planned))
    return code
