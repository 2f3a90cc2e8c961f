"""``djinn tune``: the trial between engines ahead of time, for a model in a file; the table of what was measured.

The outcome is kept in the cache: ``torch.compile(model, backend="djinn")`` of the same model, with sizes like these, on
this machine, begins with the engine that was the fastest here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from djinn_fx.cli.table import aligned
from djinn_fx.command_line import (
    FOUND_WRONG,
    OK,
    add_json,
    add_model,
    add_options,
    carry_out,
    json_target,
    read_options,
)
from djinn_fx.compiling.readiness import ModelStatus, status, wait_until_ready
from djinn_fx.dispatch.entrant import DispatchStatus, EntrantStatus
from djinn_fx.errors import DjinnError, ModelFailedError
from djinn_fx.explain.check import copy_inputs
from djinn_fx.explain.finding.file import beside, first_line
from djinn_fx.explain.finding.model import FoundModel, find_model
from djinn_fx.settings.table import Settings
from djinn_fx.units import format_bytes, format_seconds

SCHEMA = "djinn-tune/1"
#: Calls after which a trial that has not ended is given up.
MAX_CALLS = 400


_COLUMNS = ("engine", "a call", "ratio", "packed weights", "state")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="djinn tune",
        description="Try the engines on a model, keep the fastest in mind, and print what was measured.",
        epilog="Exit code: 0 decided, 1 nothing to decide or an engine gave wrong results, 2 usage, "
        "3 no model or several, 4 the model fails.",
    )
    add_model(made)
    made.add_argument("--engines", metavar="A,B", help="the engines to try; default: all that are installed")
    made.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds to wait for builds (600)")
    add_json(made)
    add_options(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return carry_out(parser(), _run, argv, "djinn tune")


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What came of it: the model's state, and the calls that were made."""

    status: ModelStatus
    calls: int


def _run(arguments: argparse.Namespace) -> int:
    target = json_target(arguments.json)
    options = read_options(arguments.option)
    given = arguments.engines
    engines = "auto" if given is None else [name.strip() for name in given.split(",") if name.strip()]
    # Builds must not hold up the calls that the trial is made of.
    options |= {"engine": engines, "compile": "background"}
    Settings.load(None, options)
    found = find_model(arguments.model)
    tuned = tune(found, options, dynamic=arguments.dynamic, timeout_s=arguments.timeout)
    told = json.dumps(
        {"schema": SCHEMA, "model": found.file, "calls": tuned.calls, "graphs": _as_json(tuned)}, indent=1
    )
    target.write(told)
    if not target.quiet:
        print_table(tuned)
    decided = [contest.decided for contest in tuned.status.contests]
    return OK if decided and all(decided) else FOUND_WRONG


def tune(found: FoundModel, options: dict[str, Any], *, dynamic: bool, timeout_s: float) -> Tuned:
    """Call the model until every trial has ended.

    Raises:
        ModelFailedError: the model cannot be run.
    """
    if isinstance(found.module, nn.Module):
        found.module.eval()
    model = torch.compile(found.module, backend="djinn", options=options, dynamic=dynamic or None)

    def call() -> None:
        args, kwargs = copy_inputs(found.args, found.kwargs)
        model(*args, **kwargs)

    with beside(found.path), torch.no_grad():
        try:
            for _ in range(3):  # Dynamo's graph, the plan, and sessions that begin to be opened
                call()
            wait_until_ready(model, timeout_s)
            calls = 3
            while calls < MAX_CALLS and not _settled(status(model)):
                call()
                calls += 1
        except DjinnError:
            raise
        except Exception as error:
            raise ModelFailedError(
                f"{found.file}: {found.attr} cannot be run: {type(error).__name__}: {first_line(error)} "
                "(`djinn explain` says where)"
            ) from error
    return Tuned(status=status(model), calls=calls)


def _settled(now: ModelStatus) -> bool:
    return now.ready and all(contest.decided for contest in now.contests)


def print_table(tuned: Tuned) -> None:
    """For people."""
    if not tuned.status.contests:
        print("nothing to choose: no engine but one takes this model's graphs whole")
    for number, contest in enumerate(tuned.status.contests):
        print(f"graph {number}, {contest.label}: {contest.reason or 'not decided'}")
        best = min((one.median_s for one in contest.entrants if one.median_s is not None), default=None)
        ranked = sorted(contest.entrants, key=lambda one: one.median_s or float("inf"))
        for line in aligned(_COLUMNS, [_row(one, best) for one in ranked], right=_COLUMNS[1:4]):
            print(f"  {line}")
    print(f"{tuned.calls} calls")


def _row(one: EntrantStatus, best: float | None) -> tuple[str, ...]:
    took = format_seconds(one.median_s) if one.median_s is not None else "-"
    ratio = f"{one.median_s / best:.2f}" if one.median_s is not None and best else "-"
    packed = format_bytes(one.memory_bytes) if one.memory_bytes else "-"
    why = f": {one.reason.detail}" if one.reason is not None else ""
    return one.engine, took, ratio, packed, f"{one.state.value}{why}"


def _as_json(tuned: Tuned) -> list[dict[str, Any]]:
    return [_contest_as_json(contest) for contest in tuned.status.contests]


def _contest_as_json(contest: DispatchStatus) -> dict[str, Any]:
    return {
        "label": contest.label,
        "engine": contest.engine,
        "decided": contest.decided,
        "reason": str(contest.reason) if contest.reason is not None else None,
        "engines": [
            {
                "engine": one.engine,
                "standing": one.state.value,
                "median_s": one.median_s,
                "answers": one.answers,
                "memory_bytes": one.memory_bytes,
                "reason": str(one.reason) if one.reason is not None else None,
            }
            for one in contest.entrants
        ],
    }
