"""``make exam``: everything torch and Transformers can ask, through ``torch.compile(backend="djinn")``.

Prints what passed, what is wrong, what crashed, and what fell back to eager and why. Ends with 1 if anything is
wrong: other than eager although ``backend="aot_eager"`` is right.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.exam.pool import ask

PARTS = ("ops", "modules", "families")


def main() -> int:
    """Run the exam as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.exam.run", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="one sample an op, tiny models, one case a family")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all answers there")
    parser.add_argument("--only", action="append", metavar="TEXT", help=f"one of {', '.join(PARTS)}, or part of a name")
    parser.add_argument("--engine", default="inductor", choices=("inductor", "eager"))
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    given = parser.parse_args()
    names = [name for name in questions(given.quick) if _wanted(name, given.only)]
    if not names:
        parser.error(f"no question matches {given.only}")
    total = Counter[str]()
    start = time.perf_counter()

    def tell(answer: dict[str, Any]) -> None:
        total.update(passed=answer["passed"], asked=1)
        for kind in ("wrong", "crashed", "fell_back"):
            total[kind] += len(answer[kind])
            for line in answer[kind]:
                print(f"{kind.replace('_', ' ')}: {line}", flush=True)
        if total["asked"] % 25 == 0:
            print(f"... {total['asked']} of {len(names)}, {time.perf_counter() - start:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        answers = ask(
            names,
            options={"engine": given.engine, "progress": False},
            processes=given.processes,
            samples=1 if given.quick else 5,
            scale=1 if given.quick else 4,
            timeout=900.0,
            environment={"DJINN_CACHE_DIR": f"{folder}/djinn", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"},
            tell=tell,
        )
    print_summary(answers, time.perf_counter() - start)
    if given.json is not None:
        given.json.write_text(json.dumps({"schema": "djinn-fx/exam/1", "answers": answers}, indent=1) + "\n")
    return 1 if any(answer["wrong"] for answer in answers) else 0


def questions(quick: bool) -> list[str]:
    """The names of all questions."""
    from tests import families
    from tests.exam.ops import all_ops, full_name
    from tests.exam.worker import all_modules

    cases = families.all_cases()
    if quick:
        cases = list({case.family: case for case in reversed(cases)}.values())[::-1]
    names = [f"op:{full_name(op)}" for op in all_ops()]
    names += [f"module:{name}" for name in all_modules()]
    names += [f"forward:{case.name}" for case in cases if case.family not in families.EXCLUDED]
    names += [f"train:{name}" for name in families.TRAINABLE]
    decoders = list(families.DECODERS)[: 3 if quick else None]
    return names + [f"generate:{family}/{cache}" for family in decoders for cache in ("dynamic", "static")]


def _wanted(name: str, only: list[str] | None) -> bool:
    if not only:
        return True
    kind = name.partition(":")[0]
    part = {"op": "ops", "module": "modules"}.get(kind, "families")
    return any(text == part or (text not in PARTS and text in name) for text in only)


def print_summary(answers: list[dict[str, Any]], seconds: float) -> None:
    """A line for each sort of question, then why questions were skipped."""
    print(f"\n{'':<10}{'asked':>8}{'passed':>8}{'wrong':>8}{'crashed':>9}{'fell back':>11}{'skipped':>9}")
    skipped = Counter[str]()
    for kind in dict.fromkeys(answer["name"].partition(":")[0] for answer in answers):
        mine = [answer for answer in answers if answer["name"].startswith(kind + ":")]
        counts = [len(mine), sum(a["passed"] for a in mine)]
        counts += [sum(len(a[key]) for a in mine) for key in ("wrong", "crashed", "fell_back")]
        counts.append(sum(sum(a["skipped"].values()) for a in mine))
        for answer in mine:
            skipped.update(answer["skipped"])
        print(f"{kind:<10}{counts[0]:>8}{counts[1]:>8}{counts[2]:>8}{counts[3]:>9}{counts[4]:>11}{counts[5]:>9}")
    for reason, count in skipped.most_common(12):
        print(f"  skipped {count}: {reason}")
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
