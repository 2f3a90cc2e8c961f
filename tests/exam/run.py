"""``make exam``: all that torch and Transformers can ask, through ``torch.compile(backend="djinn")``, engine by engine.

Prints what is wrong, what crashed, what was quarantined, and why engines refused; then a table of engines. Ends with 1
if anything is wrong: other than eager although ``backend="aot_eager"`` is right.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from djinn_fx.engines.registry import engine
from djinn_fx.errors import SettingsError
from djinn_fx.settings.table import Settings
from tests.exam.pool import ask

PARTS = ("ops", "modules", "families")
#: In the order in which they are examined.
ENGINES = ("eager", "onnxruntime", "openvino", "inductor", "packed", "auto")
#: Samples of an op, and calls of each: where several engines answer in turn, each gets one that is not its first.
SAMPLES = {"packed": 2, "auto": 2}
CALLS = {"onnxruntime": 2, "openvino": 2, "packed": 2, "auto": 5}
#: With ``--quick`` one op, module or family of so many.
QUICK_STRIDE = 20

Answers = Sequence[Mapping[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the exam as the command line says."""
    given = _arguments(argv)
    names = [name for name in questions(given.quick) if _wanted(name, given.only)]
    if not names:
        print(f"no question matches {given.only}", file=sys.stderr)
        return 2
    found: dict[str, list[dict[str, Any]] | str] = {}
    for name in given.engine or ENGINES:
        why_not = missing(name)
        if why_not is not None:
            print(f"\n{name} is not there: {why_not}", flush=True)
            found[name] = why_not
            continue
        print(f"\n== {name}: {len(names)} questions", flush=True)
        start = time.perf_counter()
        found[name] = answers = _examine(name, names, given)
        print_summary(answers, time.perf_counter() - start)
        if given.json is not None:
            given.json.write_text(json.dumps({"schema": "djinn-fx/exam/2", "engines": found}, indent=1) + "\n")
    print("\n" + engine_table(found))
    taken = [answers for answers in found.values() if not isinstance(answers, str)]
    return 1 if any(answer["wrong"] for answers in taken for answer in answers) else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.exam.run", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="a small choice of questions, tiny models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all answers there")
    parser.add_argument("--only", action="append", metavar="TEXT", help=f"one of {', '.join(PARTS)}, or part of a name")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all of them")
    parser.add_argument("--verify", default="first", help="the setting of that name")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    return parser.parse_args(argv)


def missing(name: str) -> str | None:
    """Why an engine cannot be examined here; None if it can."""
    if name == "auto":
        return None
    try:
        capability = engine(name, Settings(engine=name)).capability()
    except (SettingsError, ValueError, ImportError) as error:
        return f"{type(error).__name__}: {error}"
    return None if capability.can_build and capability.can_run else capability.why_not or "it does not say why"


def _examine(name: str, names: Sequence[str], given: argparse.Namespace) -> list[dict[str, Any]]:
    asked, start = Counter[str](), time.perf_counter()

    def tell(answer: dict[str, Any]) -> None:
        asked["questions"] += 1
        for kind in ("wrong", "crashed", "fell_back", "quarantined"):
            for line in answer[kind]:
                print(f"{kind.replace('_', ' ')}: {line}", flush=True)
        if asked["questions"] % 25 == 0:
            print(f"... {asked['questions']} of {len(names)}, {time.perf_counter() - start:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        return ask(
            names,
            options={"engine": name, "progress": False, "verify": given.verify},
            processes=given.processes,
            samples=1 if given.quick else SAMPLES.get(name, 5),
            calls=CALLS.get(name, 1),
            scale=1 if given.quick else 4,
            timeout=900.0,
            environment={"DJINN_CACHE_DIR": f"{folder}/djinn", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"},
            tell=tell,
        )


def questions(quick: bool) -> list[str]:
    """The names of all questions."""
    from tests import families
    from tests.exam.ops import all_ops, full_name
    from tests.exam.worker import all_modules

    cases = families.all_cases()
    if quick:
        cases = list({case.family: case for case in reversed(cases)}.values())[::-1]
    stride = QUICK_STRIDE if quick else 1
    names = [f"op:{full_name(op)}" for op in all_ops()[::stride]]
    names += [f"module:{name}" for name in all_modules()[::stride]]
    names += [f"forward:{case.name}" for case in cases[::stride] if case.family not in families.EXCLUDED]
    names += [f"train:{name}" for name in families.TRAINABLE[::stride]]
    decoders = list(families.DECODERS)[: 1 if quick else None]
    return names + [f"generate:{family}/{cache}" for family in decoders for cache in ("dynamic", "static")]


def _wanted(name: str, only: list[str] | None) -> bool:
    if not only:
        return True
    kind = name.partition(":")[0]
    part = {"op": "ops", "module": "modules"}.get(kind, "families")
    return any(text == part or (text not in PARTS and text in name) for text in only)


def print_summary(answers: Answers, seconds: float) -> None:
    """A line for each sort of question, then why the engine refused, and why questions were skipped."""
    headers = ("asked", "right", "wrong", "crashed", "quarantined", "refused", "fell back", "skipped")
    print("\n" + f"{'':<10}" + "".join(f"{name:>12}" for name in headers))
    for kind in dict.fromkeys(answer["name"].partition(":")[0] for answer in answers):
        mine = [answer for answer in answers if answer["name"].startswith(kind + ":")]
        counts = tally(mine)
        cells = [len(mine), *(counts[name.replace(" ", "_")] for name in headers[1:])]
        print(f"{kind:<10}" + "".join(f"{cell:>12}" for cell in cells))
    for what in ("refused", "skipped"):
        reasons = Counter[str]()
        for answer in answers:
            reasons.update(answer[what])
        for reason, count in reasons.most_common(12):
            print(f"  {what} {count}: {reason}")
    print(f"{seconds:.0f} s")


def tally(answers: Answers) -> Counter[str]:
    """How often each thing happened. ``passed``: right, and given by the engine that was asked for."""
    counts = Counter[str](right=sum(answer["passed"] for answer in answers))
    for name in ("wrong", "crashed", "fell_back", "quarantined"):
        counts[name] = sum(len(answer[name]) for answer in answers)
    for name in ("refused", "skipped"):
        counts[name] = sum(sum(answer[name].values()) for answer in answers)
    counts["passed"] = counts["right"] - counts["refused"] - counts["quarantined"]
    return counts


def engine_table(found: Mapping[str, Answers | str]) -> str:
    """A line for each engine."""
    headers = ("passed", "refused", "quarantined", "wrong", "crashed", "skipped")
    lines = [f"{'engine':<14}" + "".join(f"{name:>12}" for name in headers) + "  answers by"]
    for name, answers in found.items():
        if isinstance(answers, str):
            lines.append(f"{name:<14}  missing: {answers}")
            continue
        counts, by = tally(answers), Counter[str]()
        for answer in answers:
            by.update(answer["engines"])
        told = ", ".join(f"{one} {count}" for one, count in by.most_common())
        lines.append(f"{name:<14}" + "".join(f"{counts[one]:>12}" for one in headers) + f"  {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
