"""The older form: ``python -m djinn_fx.deploy --gpus 8 [--gpus-per-server 4] [--simulate true|false] ...``.

It plans, runs all requests and writes ``static_scheduler.log`` and ``static_execution_log.json`` into the current
folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from djinn_fx.command_line import OK, file_target, json_target
from djinn_fx.deploy.arguments import add_devices, add_input, add_search, cluster_of, wish_of, workload_of
from djinn_fx.deploy.planning import Planned, make_plan
from djinn_fx.deploy.telling import console, execution_log, page, plan_file
from djinn_fx.deploy.telling.rows import executions
from djinn_fx.errors import SettingsError

LOG, EXECUTIONS = Path("static_scheduler.log"), Path("static_execution_log.json")


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
    """Plan, simulate, write both files."""
    target, html = json_target(arguments.json), file_target("--html", arguments.html)
    workload, cluster = workload_of(arguments), cluster_of(arguments)
    if arguments.simulate or arguments.execute:
        without = [one.name for one in workload.config.models.values() if not one.entry]
        why = f"these have no `entry`: {', '.join(without)}" if without else "plan first, then run the plan"
        raise SettingsError(f"--execute calls models for real by their `entry` (package.module:function); {why}")
    planned = make_plan(workload, cluster, wish_of(arguments))
    text = "\n\n".join((console.assignment(planned), console.proof(planned), console.metrics(planned)))
    per_server = max(map(len, cluster.servers))
    try:
        with LOG.open("w", encoding="utf-8") as stream:
            stream.writelines(_log(planned, text))
        execution_log.write(planned, EXECUTIONS, mode=arguments.mode, simulate=False, per_server=per_server)
    except OSError as error:
        raise SettingsError(f"{error.filename}: cannot be written: {error.strerror}") from error
    if not target.quiet:
        print(f"{text}\n\nDetailed execution log written to {EXECUTIONS}")
    target.write(plan_file.text(planned))
    if html.path is not None or html.quiet:
        html.write(page.html(planned))
    return OK


def _log(planned: Planned, text: str) -> Iterator[str]:
    yield from (f"{line}\n" for line in text.split("\n"))
    yield "\nExecutions:\n"
    for one in executions(planned):
        gpus = ", ".join(map(str, one.gpu_ids))
        yield (
            f"[{one.start:.2f}s] {one.request_id} {one.node_id} ({one.model_name}) on GPU {gpus} "
            f"(Server {one.server_id}) until {one.end:.2f}s\n"
        )
