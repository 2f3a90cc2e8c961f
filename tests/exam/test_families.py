"""Transformers families through torch.compile: forward, generated tokens, and training steps equal eager's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from tests import families
from tests.backend.support import AT_REPEATS
from tests.exam.pool import ask
from tests.pass_text import to_text

#: Each region's own code, cut wherever structure repeats.
CUT = {"engine": "eager", "passes": [to_text(one) for one in AT_REPEATS], "expected_calls": 1}
INDUCTOR = {"engine": "inductor", "progress": False}

PROCESSES = min(4, os.cpu_count() or 1)

#: One case of each of these is compiled with the default engine.
COMPILED = (
    "llama/prefill", "mistral/decode-fixed", "qwen2/decode-growing", "qwen3/prefill", "gemma/prefill", "gemma2/prefill",
    "gemma3/decode-fixed", "gpt2/prefill", "gpt_neo/prefill", "gpt_neox/prefill", "gptj/prefill", "opt/prefill",
    "bloom/prefill", "falcon/prefill", "mpt/prefill", "phi/prefill", "phi3/prefill", "stablelm/prefill",
    "starcoder2/prefill", "olmo2/prefill", "cohere/prefill", "granite/prefill",
    "bert/encode", "roberta/encode", "distilbert/encode", "electra/encode", "albert/encode", "mpnet/encode",
    "clip_text/encode", "vit/encode", "t5/encode", "bart/encode",
)  # fmt: skip


#: Every family's first case, of which a part may be asked for; and decode steps of a few.
FIRST = tuple(
    {case.family: case.name for case in reversed(families.all_cases()) if case.family not in families.EXCLUDED}.values()
)
DECODING = ("llama/decode-fixed", "gpt2/decode-growing", "t5/decode")
#: What writes token after token, with either cache.
GENERATING = tuple(
    f"{family}/{cache}" for family in ("llama", "gpt2", "gemma2", "opt") for cache in ("static", "dynamic")
)

Answer = dict[str, Any]


@pytest.fixture(scope="module", params=[24, pytest.param(1, marks=pytest.mark.exam)], ids=["a twenty-fourth", "all"])
def step(request: pytest.FixtureRequest) -> int:
    """One name of so many is asked for."""
    found: int = request.param
    return found


@pytest.fixture(scope="module")
def cut(step: int) -> list[Answer]:
    """Answers of the engine that runs a region's own ops, asked for together: a process takes long to start."""
    names = [f"forward:{name}" for name in (*FIRST[::step], *DECODING[::step])]
    names += [f"generate:{name}" for name in GENERATING[::step]]
    names += [f"train:{name}" for name in families.TRAINABLE[::step]]
    return ask(names, options=CUT, processes=_processes(step), timeout=300.0)


def _processes(step: int) -> int:
    """`make test` has processes of its own side by side."""
    return 1 if step > 1 else PROCESSES


def _right(kind: str, answers: Sequence[Answer]) -> list[Answer]:
    """Those of one kind, none of which may be wrong."""
    mine = [answer for answer in answers if answer["name"].startswith(kind)]
    bad = [line for answer in mine for key in ("wrong", "crashed") for line in answer[key]]
    skipped = {answer["name"]: answer["skipped"] for answer in mine if answer["skipped"]}
    fell_back = [line for answer in mine for line in answer["fell_back"]]
    print(f"\n{sum(answer['passed'] for answer in mine)} of {len(mine)} passed; skipped {skipped}; {fell_back}")
    assert not bad, "\n".join(bad)
    return mine


def _passed(answers: Sequence[Answer]) -> set[str]:
    """The families."""
    return {answer["name"].partition(":")[2].partition("/")[0] for answer in answers if answer["passed"]}


@pytest.mark.slow
def test_forward_of_families(cut: list[Answer], step: int) -> None:
    """One case a family, decode steps of a few, with the eager engine and the graph cut where it repeats."""
    answers = _right("forward:", cut)
    assert len(_passed(answers)) >= 50 // step
    assert not [answer["name"] for answer in answers if answer["skipped"]]


@pytest.mark.slow
def test_generated_tokens(cut: list[Answer]) -> None:
    answers = _right("generate:", cut)
    assert [answer["passed"] for answer in answers] == [1] * len(answers) != []


@pytest.mark.slow
def test_training_steps(cut: list[Answer], step: int) -> None:
    """Loss and every gradient."""
    assert len(_passed(_right("train:", cut))) >= 12 // step


@pytest.mark.exam  # backend/test_inference.py and test_training_families.py compile some by Inductor
def test_forward_with_inductor() -> None:
    asked = [f"forward:{name}" for name in COMPILED]
    answers = _right("forward:", ask(asked, options=INDUCTOR, processes=PROCESSES, timeout=300.0))
    assert len(_passed(answers)) >= 0.9 * len(COMPILED)
    assert not [line for answer in answers for line in answer["fell_back"]]


@pytest.mark.exam
def test_more_with_inductor() -> None:
    """Tokens, and steps of training."""
    names = ["generate:llama/static", "generate:llama/dynamic", "train:llama/prefill", "train:bert/encode"]
    answers = _right("", ask(names, options=INDUCTOR, processes=PROCESSES, timeout=300.0))
    assert [answer["passed"] for answer in answers] == [1] * len(names)
