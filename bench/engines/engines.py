"""djinn's choice of engines against each by itself: eager, Inductor, OpenVINO's backend, an ONNX Runtime session.

    python bench/engines/engines.py --json bench/results/engines.json      # hours; --resume goes on with a stopped run
    python bench/engines/engines.py --models opt,bert --batch 1
    python bench/engines/engines.py --quick

Each contender of a case (a model, a way of calling it, a batch size) is a process of its own with empty caches. They
stay alive and are asked in turn for some calls; only one runs at a time. Eager runs twice: the ratio of the two is the
noise floor. Answers are held against the same model in float64. See bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.engines import report as engines_report
from bench.engines.models import CASES, QUICK_CASES, SPECS
from bench.harness.children import ChildFailedError, call_child, fresh_caches
from bench.harness.harness import Journal, Report, parse, parser, positive, rotated
from bench.harness.standing import Standing

CHILD = "bench.engines.child"
#: What is compared; ``djinn`` is engine "auto" in the background, ``djinn-blocking`` the same before the first result.
SIDES = (
    *("eager", "eager again", "inductor", "openvino", "onnxruntime", "djinn", "djinn-blocking"),
    *(engines_report.BF16, engines_report.INT8),
)
QUICK_SIDES = ("eager", "eager again", "inductor", "onnxruntime", "djinn")
#: What is tried where a contender fails.
INSTEAD = {"openvino": "openvino-plain"}
BATCHES = (1, 8)
#: Blocks of calls a contender, and seconds of one.
ROUNDS, QUICK_ROUNDS = 9, 3
BLOCK_S, QUICK_BLOCK_S = 0.5, 0.05
#: Seconds after which djinn is no longer waited for.
READY_S, QUICK_READY_S = 300.0, 30.0

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = _arguments(argv)
    report, journal = Report("engines", arguments), Journal(arguments)
    found: dict[str, list[Found]] = {}
    for case in arguments.cases:
        for batch in arguments.batch:
            for turn in range(arguments.runs):
                step = f"{case} x{batch} {turn}"
                one = journal.once(step, lambda c=case, b=batch, t=turn: measure(c, b, t, arguments))  # type: ignore[misc]
                found.setdefault(f"{case} x{batch}", []).append(one)
    dispatch = journal.once("dispatch", lambda: measure_dispatch()) if arguments.dispatch else None
    engines_report.tell(found, report)
    engines_report.bars(found, dispatch, report, whole=arguments.models is None and not arguments.quick)
    code = report.finish()
    journal.done()
    return code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__ or "", runs=1)
    words = lambda text: tuple(filter(None, text.split(",")))  # noqa: E731
    numbers = lambda text: tuple(positive(one) for one in text.split(","))  # noqa: E731
    made.add_argument("--models", type=words, metavar="A,B", help="models or cases, such as opt or opt/decode")
    made.add_argument("--batch", type=numbers, metavar="N,M", help="batch sizes (default 1,8; with --quick 1)")
    made.add_argument("--sides", type=words, metavar="A,B", help=f"contenders (default {','.join(SIDES)}; djinn:NAME)")
    made.add_argument("--no-dispatch", dest="dispatch", action="store_false", help="leave the cost of dispatch out")
    arguments = parse(made, argv)
    unknown = [one for one in arguments.models or () if one not in SPECS and one not in CASES]
    if unknown:
        made.error(f"no model {unknown[0]!r}; known: {', '.join(SPECS)}")
    arguments.batch = arguments.batch or ((1,) if arguments.quick else BATCHES)
    arguments.sides = arguments.sides or (QUICK_SIDES if arguments.quick else SIDES)
    if engines_report.BF16 in arguments.sides and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print(f"{engines_report.BF16} is left out: this processor has no products of bfloat16")
        arguments.sides = tuple(side for side in arguments.sides if side != engines_report.BF16)
    arguments.dispatch = arguments.dispatch and not arguments.quick
    wanted = set(arguments.models or (QUICK_CASES if arguments.quick else SPECS))
    arguments.cases = tuple(case for case in CASES if case in wanted or case.partition("/")[0] in wanted)
    return arguments


def measure(case: str, batch: int, turn: int, arguments: argparse.Namespace) -> Found:
    """One case: first results one contender after the other, then answers, then calls in turn."""
    given = {"case": case, "batch": batch, "quick": arguments.quick}
    sides: dict[str, Found] = {}
    with contextlib.ExitStack() as stack:
        reference = str(stack.enter_context(fresh_caches()).home.parent / "answers.pt")
        try:
            facts = _judge(given, reference)
        except ChildFailedError as error:
            print(f"  {case} x{batch}: cannot be judged: {error}", flush=True)
            failed = {side: {"failed": f"no float64 answer: {error}"} for side in arguments.sides}
            return {"facts": {"parameters": 0}, "sides": failed}
        standing: dict[str, Standing] = {}
        for side in rotated(arguments.sides, turn):
            contender, sides[side] = _first_result(side, given, reference, stack)
            if contender is not None:
                standing[side] = contender
        with _noting(sides):
            _calls(standing, sides, turn, arguments.quick)
            for side, contender in standing.items():
                sides[side]["holds"] = contender.ask("holds")
            _saved(standing, sides, given, reference, stack)
    found = {"facts": facts, "sides": {side: sides[side] for side in arguments.sides}}
    print(f"  {case} x{batch}: {engines_report.line(found)}", flush=True)
    return found


@contextlib.contextmanager
def _noting(sides: dict[str, Found]) -> Iterator[None]:
    """A contender that dies in the middle spoils its case: all of it is then without calls."""
    try:
        yield
    except ChildFailedError as error:
        for one in sides.values():
            one.setdefault("failed", f"the case was given up: {error}")


def _judge(given: Found, reference: str) -> Found:
    with fresh_caches() as caches, Standing(f"{CHILD}:Contender", {**given, "side": "eager"}, caches) as child:
        facts: Found = child.ask("facts")
        child.ask("judge", file=reference)
        return facts


def _first_result(
    side: str, given: Found, reference: str, stack: contextlib.ExitStack
) -> tuple[Standing | None, Found]:
    """A contender that has given its first result and whose answer was examined; None if it failed."""
    found: Found = {}
    for name in filter(None, (side, INSTEAD.get(side))):
        caches = stack.enter_context(fresh_caches())
        child = stack.enter_context(Standing(f"{CHILD}:Contender", {**given, "side": name}, caches))
        try:
            found |= {"as": name, "cold": child.ask("compile")["seconds"]}
            if name.startswith("djinn"):
                limit_s = QUICK_READY_S if given["quick"] else READY_S
                found["ready"] = child.ask("ready", limit_s=limit_s)
            found["check"] = child.ask("check", reference=reference)
        except ChildFailedError as error:
            found.setdefault("failed", str(error))
            child.stop()
        else:
            found.pop("failed", None)
            return child, found
    return None, found


def _calls(standing: dict[str, Standing], sides: dict[str, Found], turn: int, quick: bool) -> None:
    """Seconds a call: medians of blocks that take turns and are about equally long."""
    block_s = QUICK_BLOCK_S if quick else BLOCK_S
    calls: dict[str, int] = {}
    for side, child in standing.items():
        warm_s = statistics.median(child.ask("run", calls=3))
        calls[side] = max(3, min(200, int(block_s / max(warm_s, 1e-6))))
    for number in range(QUICK_ROUNDS if quick else ROUNDS):
        for side in rotated(list(standing), turn + number):
            seconds = standing[side].ask("run", calls=calls[side])
            sides[side].setdefault("samples", []).append(statistics.median(seconds))


def _saved(
    standing: dict[str, Standing], sides: dict[str, Found], given: Found, reference: str, stack: contextlib.ExitStack
) -> None:
    """The first call of a new process through the saved callable."""
    side = next((one for one in ("djinn-blocking", "djinn") if one in standing), None)
    if side is None:
        return
    caches = stack.enter_context(fresh_caches())
    file = str(caches.home.parent / "saved.bin")
    try:
        standing[side].ask("save", file=file)
        with Standing(f"{CHILD}:Contender", {**given, "side": side}, caches) as child:
            sides[side]["saved"] = child.ask("load", file=file, reference=reference)
    except ChildFailedError as error:
        sides[side]["saved"] = {"failed": str(error)}


def measure_dispatch() -> Found:
    """What a call of a tiny region costs more when its engine was chosen by trial than when it was named."""
    plan = {"rounds": 40, "calls": 2000}
    try:
        with fresh_caches() as caches:
            found: Found = call_child(f"{CHILD}:dispatch", plan, caches)
    except ChildFailedError as error:
        return {"failed": str(error)[-500:]}
    return found


if __name__ == "__main__":
    sys.exit(main())
