"""``djinn sessions``: pools, sessions and hits of processes that keep agent sessions, and why pages left."""

from __future__ import annotations

import argparse
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from djinn_fx.cli.table import on_one_line, print_table
from djinn_fx.files.private import default_cache_dir
from djinn_fx.units import format_bytes

OK, NONE = 0, 1
#: As in ``djinn_fx.sessions.status``, which imports torch.
MAX_BYTES, MAX_FILES = 8 << 20, 256


def add_parser(commands: Any) -> None:
    """Add ``sessions`` to argparse's subparsers."""
    text = "show the pools, sessions and hits of processes that keep agent sessions, and why pages left"
    made = commands.add_parser("sessions", help=text, description=text)
    made.add_argument("--reasons", type=int, default=10, metavar="N", help="the last N moves with their reasons")
    made.add_argument("--json", action="store_true", help="as JSON, one line a process")
    made.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what is told; exit code 1 where no process tells anything."""
    told = read_all(default_cache_dir() / "sessions")
    for one in told:
        if arguments.json:
            print(json.dumps(one))
        else:
            _print(one, max(0, arguments.reasons))
    if not told and not arguments.json:
        print("no process of yours keeps sessions now (one tells of itself within two seconds)")
    return OK if told else NONE


def read_all(folder: Path) -> list[dict[str, Any]]:
    """What processes that are alive tell; what cannot be read is passed over."""
    found = []
    for path in sorted(folder.glob("status-*.json"))[:MAX_FILES]:
        told = _read(path)
        if told is not None and _alive(told.get("pid")):
            found.append(told)
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                return None
            told = json.loads(stream.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and isinstance(told.get("models"), list) else None


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _print(told: dict[str, Any], reasons: int) -> None:
    age = max(0.0, time.time() - float(told.get("at", 0)))
    for model in told["models"]:
        heading = f"process {told['pid']}, {model['model']}: {model['alive']} sessions, policy {model['policy']}"
        print(on_one_line(f"{heading}, {model['steps']} steps, as of {age:.0f} s ago"))
        pools = [
            (pool["tier"], format_bytes(pool["nbytes"]), format_bytes(pool["nbytes"] - pool["free"]))
            for pool in model["pools"]
        ]
        print_table(("pool", "size", "in use"), pools)
        rows = [
            (
                *(on_one_line(one[name]) for name in ("id", "tenant", "phase", "tool")),
                str(one["tokens"]),
                *(format_bytes(one[tier]) for tier in ("device", "host", "disk")),
                str(one["turns"]),
            )
            for one in model["sessions"]
        ]
        if rows:
            print_table(("session", "tenant", "phase", "tool", "tokens", "device", "host", "disk", "turns"), rows)
        counts = model["counts"]
        print(
            f"pages: {counts['evicted']} left ({counts['evicted_clean']} without a copy), {counts['loaded']} returned, "
            f"{counts['cancelled']} moves cancelled, {counts['damaged']} damaged; tokens: {model['shared_tokens']} "
            f"found in others' pages, {model['recomputed_tokens']} computed again"
        )
        for reason in model["reasons"][-reasons:] if reasons else ():
            other = (
                f" (instead of {reason['runner_up']}: {reason.get('runner_up_cost')})" if "runner_up" in reason else ""
            )
            print(on_one_line(f"{reason['kind']} [{reason.get('node', '')}]: {reason['detail']}{other}"))
