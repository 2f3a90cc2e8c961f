"""Open traces as jobs: what each of them can carry, and what it leaves out."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.sessions.load import PAGE, Job, Spawn, Turn

#: Where a trace does not say how long a call took.
USUAL_BUSY_S = 6.0
_TOOLS = {"tool_use": "tool", "end_turn": "user"}


def lines(path: Path) -> Iterator[Any]:
    """The objects of a file of JSON lines, compressed or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield from (json.loads(line) for line in file if line.strip())


def found(data: Path, field: str) -> list[Path]:
    """Files of JSON lines at or below a folder, compressed or not, whatever their names, whose objects have a field."""
    files = sorted(path for path in data.rglob("*.jsonl*") if path.is_file() and path.suffix in (".gz", ".jsonl"))
    return [path for path in files if field in next(lines(path), {})]


# -- kv-cache-tester ---------------------------------------------------------------------------------------------------


def kv_cache_tester(path: Path) -> list[Job]:
    """Sessions of coding agents, with their subagents. It names neither tools nor tenants, nor when a session began."""
    return [_session(row, str(row.get("id", number))) for number, row in enumerate(lines(path))]


def _session(row: Mapping[str, Any], key: str) -> Job:
    calls = [call for call in row["calls"] if "subagent" not in call]
    turns = _turns(calls)
    spawns: list[Spawn] = []
    after, ended = -1, 0.0
    for call in row["calls"]:
        if "subagent" in call:
            own = _turns(call["subagent"])
            if own and 0 <= after < len(turns):
                base = min(call["subagent"][0].get("h", 0) * PAGE, turns[after].tokens // PAGE * PAGE)
                job = Job(f"{key}/{len(spawns)}", 0.0, own, base=base, parent=key)
                spawns.append(Spawn(after, min(60.0, max(0.0, call.get("t", ended) - ended)), _beyond(job)))
        else:
            after, ended = after + 1, call.get("t", ended) + (call.get("a") or USUAL_BUSY_S)
    return Job(key, 0.0, turns, spawns=spawns)


def _turns(calls: list[Mapping[str, Any]]) -> list[Turn]:
    made = []
    for place, call in enumerate(calls):
        before = calls[place - 1]["i"] + calls[place - 1]["o"] if place else 0
        made.append(
            Turn(
                gap=max(0.0, call.get("w") or 0.0) if place else 0.0,
                # Outputs come back as input with the next call; in blocks the trace counts inputs alone.
                common=_common(call, calls[place - 1], before) if place else 0,
                inputs=max(1, call["i"]),
                outputs=max(1, call["o"]),
                tool=_TOOLS.get(call.get("s", ""), ""),
                busy=call.get("a") or USUAL_BUSY_S,
            )
        )
    return made


def _common(call: Mapping[str, Any], last: Mapping[str, Any], before: int) -> int:
    """Where the whole of the last prompt is in common, so is what was answered, as far as the new prompt goes."""
    blocks = call.get("p", 0)
    whole = blocks >= last.get("b", 0) and call["i"] >= before
    return min(before, call["i"] - 1) if whole else min(blocks * PAGE, call["i"] - 1, before)


def _beyond(job: Job) -> Job:
    """A subagent's turns never fall below what it shares with its parent."""
    for turn in job.turns:
        turn.inputs = max(turn.inputs, job.base + 1)
        turn.common = max(turn.common, job.base)
    return job


# -- others ------------------------------------------------------------------------------------------------------------


def mooncake(path: Path) -> list[tuple[float, int, int, tuple[int, ...]]]:
    """Requests of a chat: seconds, tokens in, tokens out, hashes of blocks of 512 tokens. It knows no sessions."""
    rows = lines(path)
    return [(r["timestamp"] / 1e3, r["input_length"], r["output_length"], tuple(r["hash_ids"])) for r in rows]


def azure_arrivals(path: Path) -> list[float]:
    """Seconds at which requests came, from the first one on."""
    with path.open() as file:
        stamps = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in csv.DictReader(file)]
    return [stamp - stamps[0] for stamp in stamps]


def bfcl(path: Path) -> list[list[tuple[int, int, int]]]:
    """Of each conversation its turns: letters of the user, calls of tools, letters of these. It knows no times."""
    return [[(t["user_chars"], t["calls"], t["call_chars"]) for t in row["turns"]] for row in lines(path)]


def bfcl_classes(path: Path) -> list[tuple[str, ...]]:
    """Of each conversation the classes of tools that it may call."""
    return [tuple(row["classes"]) for row in lines(path)]
