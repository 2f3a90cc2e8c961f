"""``djinn workers`` and ``djinn worker``: workers on Ray, what they hold, what went there, and their links timed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

from djinn_fx.cli.table import on_one_line, print_table
from djinn_fx.command_line import (
    FOUND_WRONG,
    OK,
    add_json,
    add_options,
    carry_out,
    file_target,
    json_target,
    read_options,
)
from djinn_fx.compiling.workers.spread import workers_of
from djinn_fx.errors import EngineError, SettingsError
from djinn_fx.hardware.workers import WorkerLink, pair_links, topology_text
from djinn_fx.remote.workers.client import WorkerClient, WorkerStatus
from djinn_fx.remote.workers.cluster import Cluster
from djinn_fx.remote.workers.measure import PROBE_BYTES, measured_link
from djinn_fx.remote.workers.pool import close_all
from djinn_fx.remote.workers.there import look, workers_there
from djinn_fx.settings.table import Settings
from djinn_fx.settings.workers import read_workers
from djinn_fx.units import format_bytes, format_seconds, parse_bytes, parse_seconds

SCHEMA = "djinn-workers/1"
_COLUMNS = ("worker", "node", "health", "incarnation", "threads", "may hold", "weights", "state", "sent", "came back")
_END = "Exit code: 0 done, 1 a worker is not well or Ray does not start, 2 usage or no token."


def parser() -> argparse.ArgumentParser:
    """The arguments of ``djinn workers``."""
    made = argparse.ArgumentParser(
        prog="djinn workers",
        description="Show the workers on a Ray: those that run there, whichever process started them; where none does, "
        "and with local:N, workers of this command's own, which end with it.",
        epilog=_END,
    )
    made.add_argument("action", nargs="?", choices=["measure"], help="time the links to the workers")
    made.add_argument("--topology", metavar="FILE", help="measure: write the links as a topology (docs/topology.md)")
    _add_where(made)
    return made


def one_parser() -> argparse.ArgumentParser:
    """The arguments of ``djinn worker``."""
    made = argparse.ArgumentParser(
        prog="djinn worker", description="Show all that one worker on a Ray tells of itself.", epilog=_END
    )
    made.add_argument("name", help="such as worker:0")
    _add_where(made)
    return made


def _add_where(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--workers", metavar="WHERE", help="local:2, auto, or a Ray's address; default: the setting `workers`"
    )
    add_json(made, "what is shown")
    add_options(made)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``djinn workers``; returns the exit code."""
    return carry_out(parser(), _run, argv, "djinn workers")


def main_of_one(argv: Sequence[str] | None = None) -> int:
    """Run ``djinn worker``; returns the exit code."""
    return carry_out(one_parser(), _run_one, argv, "djinn worker")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.topology is not None and arguments.action != "measure":
        raise SettingsError("--topology is for links that were measured: djinn workers measure --topology FILE")
    target, file = json_target(arguments.json), file_target("--topology", arguments.topology)
    settings = _settings(arguments)
    with _found(settings) as workers:
        if arguments.action is None:
            shown = look(workers)
            target.write(_json(settings, workers=[asdict(one) for one in shown]))
            if not target.quiet:
                _print(shown)
            return _code(shown)
        links = _links(workers)
    memory = parse_bytes(settings.worker_memory) if settings.worker_memory is not None else None
    target.write(_json(settings, links={name: asdict(link) for name, link in links.items()}))
    file.write(topology_text(links, memory))
    if not target.quiet and not file.quiet:
        _print_links(links)
    return OK


def _run_one(arguments: argparse.Namespace) -> int:
    target, settings = json_target(arguments.json), _settings(arguments)
    with _found(settings) as workers:
        named = [one for one in workers if one.name == arguments.name]
        if not named:
            raise SettingsError(f"no {arguments.name!r} there; there are {', '.join(one.name for one in workers)}")
        shown = look(named)
    target.write(_json(settings, workers=[asdict(one) for one in shown]))
    for one in shown if not target.quiet else ():
        print_table(("what", "now"), [(name, str(value)) for name, value in asdict(one).items()])
    return _code(shown)


def _settings(arguments: argparse.Namespace) -> Settings:
    options = read_options(arguments.option)
    settings = Settings.load(None, options | ({"workers": arguments.workers} if arguments.workers else {}))
    if settings.workers is None:
        raise SettingsError("no workers are named: --workers local:2, auto or an address; or the setting `workers`")
    return settings


@contextmanager
def _found(settings: Settings) -> Iterator[tuple[WorkerClient, ...]]:
    """The workers that run there; where none does, some of our own while this lasts."""
    at = read_workers(settings.workers)
    try:
        if at.local:
            yield tuple(workers_of(settings).pool.workers.values())
            return
        with closing(Cluster(at)):
            found = workers_there(parse_seconds(settings.worker_timeout))
            yield found or tuple(workers_of(settings).pool.workers.values())
    finally:
        close_all()


def _links(workers: Sequence[WorkerClient]) -> dict[str, WorkerLink]:
    """By worker.

    Raises:
        DeviceLostError: a worker is lost.
        EngineError: it has no room for the probe, or workers of several processes have one name.
    """
    names = [one.name for one in workers]
    if len(set(names)) < len(names):
        raise EngineError(
            "several processes have workers on this Ray, of the same names: measure while one of them runs"
        )
    return {one.name: measured_link(one) for one in workers}


def _json(settings: Settings, **told: Any) -> str:
    return json.dumps({"schema": SCHEMA, "at": settings.workers, **told}, indent=1)


def _code(shown: Sequence[WorkerStatus]) -> int:
    return OK if all(one.alive for one in shown) else FOUND_WRONG


def _print(shown: Sequence[WorkerStatus]) -> None:
    rows = [
        (
            one.name,
            one.node,
            ("at work" if one.busy_s else "alive") if one.alive else on_one_line(one.why),
            str(one.incarnation),
            str(one.threads),
            *map(format_bytes, (one.memory_bytes, one.weight_bytes, one.state_bytes)),
            _by_kind(one.sent),
            _by_kind(one.received),
        )
        for one in shown
    ]
    print_table(_COLUMNS, rows)


def _by_kind(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {format_bytes(nbytes)}" for kind, nbytes in sorted(counted.items())) or "nothing"


def _print_links(links: Mapping[str, WorkerLink]) -> None:
    rows = [("here", name, link) for name, link in links.items()] + list(pair_links(links))
    told = [
        (one, other, format_seconds(link.latency_s), f"{format_bytes(int(link.bandwidth_bytes_s))}/s")
        for one, other, link in rows
    ]
    print_table(("from", "to", "first byte", "then"), told)
    print(
        f"timed from here: empty requests, and {format_bytes(PROBE_BYTES)} in one; between two workers the slower of "
        "their links is taken, as the placement does"
    )
