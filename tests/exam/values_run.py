"""``make exam``: torch's database of ops with numbers that tell engines apart, engine by engine.

Harmless numbers first, then NaN, infinities, zeros, denormals, the ends of each type, large integers and indices out of
range in the same shapes: values, types, sizes, strides and whether it raises, against eager. Prints what is wrong
and which share of the calls the engine answered itself. Ends with 1 if anything is wrong, if an engine refuses more
than it used to, or if cases are excluded that are not on the committed list.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.exam.pool import ask
from tests.exam.run import missing

ENGINES = ("openvino", "onnxruntime", "packed", "inductor", "inductor-packed", "auto")
#: By how much an engine's share of served calls may fall below the committed one.
MARGIN = 0.02
#: How often an op is asked again without the calls that ended its process.
DEATHS = 6
#: Ops that aot_eager answers otherwise than eager, at most.
EXCLUDED_CAP = 40

HERE = Path(__file__).parent
#: The share of served calls by engine, when the sweep began.
BASELINE = HERE / "values_baseline.json"
#: The ops that aot_eager itself answers otherwise than eager.
EXCLUDED = HERE / "values_excluded.json"

Answers = Sequence[Mapping[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep as the command line says."""
    given = _arguments(argv)
    names = [name for name in ops() if not given.only or any(text in name for text in given.only)]
    names = names[given.offset :: given.stride]
    found: dict[str, Answers] = {}
    failed = False
    for engine in given.engine or ENGINES:
        why_not = missing(engine)
        if why_not is not None:
            print(f"{engine} is not there: {why_not}", flush=True)
            continue
        start = time.perf_counter()
        found[engine] = answers = sweep(engine, names, samples=given.samples, processes=given.processes, told=True)
        print(f"{summary(engine, answers)}, {time.perf_counter() - start:.0f} s", flush=True)
        failed = bool(troubles(engine, answers)) or failed
        if given.json is not None:
            given.json.write_text(json.dumps(found, indent=1) + "\n")
    for engine, answers in found.items():
        print("\n".join(troubles(engine, answers)))
        print(summary(engine, answers))
    return int(failed)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.exam.values_run")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all of them")
    parser.add_argument("--only", action="append", metavar="TEXT", help="part of an op's name")
    parser.add_argument("--stride", type=int, default=1, help="one op of so many")
    parser.add_argument("--offset", type=int, default=0, help="how many ops to pass over before the first")
    parser.add_argument("--samples", type=int, default=2, help="questions of an op (2, as for the baseline); 0: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all answers there")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    return parser.parse_args(argv)


def ops() -> list[str]:
    """The names of all ops."""
    from tests.exam.ops import all_ops, full_name

    return [full_name(op) for op in all_ops()]


def sweep(
    engine: str, names: Iterable[str], *, samples: int = 0, processes: int = 1, told: bool = False
) -> list[dict[str, Any]]:
    """The answers of ops on an engine. A call that ends its process is wrong, and the op is asked again without it."""
    waiting, deaths, found = {name: name for name in names}, Counter[str](), []
    wrong: dict[str, list[list[str]]] = {}

    def tell(answer: Mapping[str, Any]) -> None:
        for label, kind, what in answer["wrong"] if told else ():
            print(f"wrong on {engine}: {answer['name']} {label}, {kind}: {what}", flush=True)

    while waiting:
        with tempfile.TemporaryDirectory() as folder:
            answers = ask(
                [f"values:{asked}" for asked in waiting.values()],
                options={"engine": engine, "progress": False},
                processes=processes,
                samples=samples,
                timeout=300.0,
                environment={
                    "DJINN_CACHE_DIR": f"{folder}/djinn",
                    "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
                    "OMP_NUM_THREADS": "1",
                },
                tell=tell,
            )
        again: dict[str, str] = {}
        for answer, name in zip(answers, list(waiting), strict=True):
            if "at" not in answer:
                found.append({**answer, "name": name, "wrong": [*wrong.get(name, []), *answer["wrong"]]})
                continue
            number, who, where = [*answer["at"].split(" ", 2), "", ""][:3]
            if who == "djinn":
                wrong.setdefault(name, []).append(["", where, answer["crashed"][0]])
            deaths[name] += 1
            if deaths[name] <= DEATHS and number:
                again[name] = f"{waiting[name]}!{number}"
            else:
                found.append({**empty(name), "wrong": wrong.get(name, [])})
        waiting = again
    return found


def empty(name: str) -> dict[str, Any]:
    """The answer of an op of which nothing else is known."""
    counts = {"calls": 0, "answered": 0, "harmless": 0, "served": 0}
    return {"name": name, "wrong": [], "excluded": [], "crashed": [], **counts}


def share(answers: Answers) -> float:
    """Of the calls with harmless numbers, how many the engine answered itself."""
    return sum(one["served"] for one in answers) / max(1, sum(one["harmless"] for one in answers))


def summary(engine: str, answers: Answers) -> str:
    """In one line."""
    calls, answered = (sum(one[what] for one in answers) for what in ("calls", "answered"))
    wrong, excluded = (sum(len(one[what]) for one in answers) for what in ("wrong", "excluded"))
    return (
        f"{engine}: {wrong} of {calls} calls wrong, {excluded} excluded; it answered {share(answers):.1%} of the "
        f"harmless calls and {answered / max(1, calls):.1%} of all"
    )


def troubles(engine: str, answers: Answers) -> list[str]:
    """What must not be: wrong answers, a smaller share, exclusions that nobody has looked at."""
    told = [f"{engine}: {one['name']}: {len(one['wrong'])} wrong" for one in answers if one["wrong"]]
    told += [f"{engine}: {one['name']} cannot be asked: {one['skipped']}" for one in answers if one.get("skipped")]
    before = json.loads(BASELINE.read_text()).get(engine, {}) if BASELINE.exists() else {}
    known = [one for one in answers if one["name"] in before]
    served = sum(before[one["name"]][0] for one in known) / max(1, sum(before[one["name"]][1] for one in known))
    if known and share(known) < served - MARGIN:
        told.append(f"{engine}: it answers {share(known):.1%} of the harmless calls, {served:.1%} before")
    listed = json.loads(EXCLUDED.read_text()) if EXCLUDED.exists() else []
    told += [
        f"{one['name']} is excluded but not listed" for one in answers if one["excluded"] and one["name"] not in listed
    ]
    if len(listed) > EXCLUDED_CAP:
        told.append(f"{len(listed)} ops are excluded, more than {EXCLUDED_CAP}")
    return told


if __name__ == "__main__":
    sys.exit(main())
