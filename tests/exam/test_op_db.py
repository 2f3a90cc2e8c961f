"""Torch's database of ops through lowering, the passes, cuts and the executor: every result equals eager's."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.dispatch.build import Builder
from djinn_fx.passes.base import Pass, PassContext, run_passes
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.passes.pipeline import DEFAULT, plan_of
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import program_of
from djinn_fx.settings.table import Settings
from djinn_fx.srg import GraphKind, lower
from tests.backend.support import cutting
from tests.exam.ops import Question, all_ops, differences, part_of, questions

#: Of each op.
SAMPLES = 2
#: Questions that pass, and graphs that are cut, of the whole database.
BAR, CUT = 1000, 200
#: What the database itself seeds with, around each call of a random op.
SEED = 42

#: The default passes, eager to cut: units of a single op count as repeats, and cuts cost nothing.
AT_REPEATS: tuple[Pass, ...] = tuple(
    FindRegions(min_ops=1, max_boundary_share=1e9) if one.name == FindRegions.name else one for one in DEFAULT
)


class Skipped(Exception):
    """Torch itself cannot answer the question this way; says what is missing."""


@pytest.mark.slow
@pytest.mark.parametrize("share", [12, pytest.param(1, marks=pytest.mark.exam)], ids=["a twelfth", "all"])
def test_results_are_eagers(share: int) -> None:
    builder = Builder(Settings(engine="eager", cache_limit="0"))
    passed, regions, cut = 0, 0, 0
    skipped: Counter[str] = Counter()
    wrong: list[str] = []
    start = time.perf_counter()
    for op in part_of(all_ops(), share):
        for question in questions(op, SAMPLES):
            try:
                found = _examine(question, builder)
            except Skipped as reason:
                skipped[str(reason)] += 1
            except Exception as error:  # noqa: BLE001 - counted, and fails the test below
                wrong.append(f"{question.name} {question.number}: {type(error).__name__}: {str(error)[:300]}")
            else:
                wrong += found.wrong
                passed += not found.wrong
                regions += found.regions
                cut += found.regions > 1
    print(f"\n{passed} passed, {sum(skipped.values())} skipped, {len(wrong)} wrong, {cut} were cut, "
          f"{regions} regions, {time.perf_counter() - start:.0f} s")  # fmt: skip
    for reason, count in skipped.most_common():
        print(f"  skipped {count}: {reason}")
    assert not wrong, "\n".join(wrong)
    assert passed >= BAR // share
    assert cut >= CUT // share, "too few graphs were cut for this to be a test of cutting"


class _Answer:
    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.regions = 0


def _examine(question: Question, builder: Builder) -> _Answer:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected_arguments = question.arguments()
        try:
            expected = _seeded(question.function, expected_arguments)
        except Exception as error:
            raise Skipped(f"eager: {type(error).__name__}") from error
        graph, mode = _traced(question)
        by_torch = _seeded(graph, question.arguments())
        if differences(by_torch, expected, question.defined) is not None:
            raise Skipped("torch's own trace gives another result")
        answer = _Answer()
        for passes in (cutting(size=1), AT_REPEATS):
            run, regions = _compiled(graph, passes, builder)
            answer.regions = max(answer.regions, regions)
            given = question.arguments()
            actual = _seeded(lambda *args, run=run: run(list(args)), given)
            for what, ours, theirs in (("result", actual, expected), ("argument", given, expected_arguments)):
                found = differences(list(ours), list(theirs), question.defined)
                if found is not None:
                    answer.wrong.append(f"{question.name} {question.number} ({mode}), {what}: {found}")
        return answer


def _seeded(function: Any, arguments: list[torch.Tensor]) -> list[Any]:
    torch.manual_seed(SEED)
    return list(function(*arguments))


def _traced(question: Question) -> tuple[GraphModule, str]:
    """With fixed sizes; with symbolic ones where a size depends on data."""
    reason = ""
    for mode in ("fake", "symbolic"):
        try:
            return make_fx(question.function, tracing_mode=mode)(*question.arguments()), f"{mode} sizes"
        except Exception as error:  # noqa: BLE001 - what torch cannot trace is skipped with its reason
            reason = reason or f"make_fx: {type(error).__name__}"
    raise Skipped(reason)


def _compiled(graph: GraphModule, passes: tuple[Pass, ...], builder: Builder) -> tuple[Any, int]:
    srg = lower(graph, GraphKind.INFERENCE)
    run_passes(srg, passes, PassContext(expected_calls=1), check=True)
    plan = plan_of(srg)
    program, constants = program_of(srg, plan)
    return executable(program, builder.build(srg, plan).callables, constants), len(plan.regions)
