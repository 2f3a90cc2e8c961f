"""Transformers families through torch.compile: forward, generated tokens, and training steps equal eager's."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from djinn_fx.passes.base import to_text
from tests import families
from tests.backend.support import AT_REPEATS
from tests.exam.pool import ask

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


def _all_right(names: Sequence[str], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    start = time.perf_counter()
    answers = ask(names, options=options, processes=PROCESSES, timeout=300.0)
    bad = [line for answer in answers for key in ("wrong", "crashed") for line in answer[key]]
    skipped = {answer["name"]: answer["skipped"] for answer in answers if answer["skipped"]}
    fell_back = [line for answer in answers for line in answer["fell_back"]]
    passed = sum(answer["passed"] for answer in answers)
    print(f"\n{passed} of {len(names)} passed in {time.perf_counter() - start:.0f} s; skipped {skipped}; {fell_back}")
    assert not bad, "\n".join(bad)
    return answers


def _family(name: str) -> str:
    return name.partition(":")[2].partition("/")[0]


def _passed(answers: Sequence[Mapping[str, Any]]) -> set[str]:
    return {_family(answer["name"]) for answer in answers if answer["passed"]}


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.exam)], ids=["every second", "every"])
def test_forward_of_families(step: int) -> None:
    """One case a family, decode steps of a few, with the eager engine and the graph cut where it repeats."""
    first = {case.family: case for case in reversed(families.all_cases()) if case.family not in families.EXCLUDED}
    names = [case.name for case in first.values()][::step]
    answers = _all_right(
        [f"forward:{name}" for name in (*names, "llama/decode-fixed", "gpt2/decode-growing", "t5/decode")], CUT
    )
    assert len(_passed(answers)) >= 50 // step
    assert not [answer["name"] for answer in answers if answer["skipped"]]


@pytest.mark.slow
@pytest.mark.parametrize("names", [COMPILED[::3], pytest.param(COMPILED, marks=pytest.mark.exam)], ids=["some", "all"])
def test_forward_with_inductor(names: tuple[str, ...]) -> None:
    answers = _all_right([f"forward:{name}" for name in names], INDUCTOR)
    assert len(_passed(answers)) >= 0.9 * len(names)
    assert not [line for answer in answers for line in answer["fell_back"]]


@pytest.mark.slow
def test_generated_tokens() -> None:
    names = [f"generate:{f}/{cache}" for f in ("llama", "gpt2", "gemma2", "opt") for cache in ("static", "dynamic")]
    answers = _all_right(names, CUT)
    assert len([answer for answer in answers if answer["passed"]]) == len(names)


@pytest.mark.exam
def test_generated_tokens_with_inductor() -> None:
    answers = _all_right(["generate:llama/static", "generate:llama/dynamic"], INDUCTOR)
    assert [answer["passed"] for answer in answers] == [1, 1]


@pytest.mark.slow
def test_training_steps() -> None:
    """Loss and every gradient."""
    answers = _all_right([f"train:{name}" for name in families.TRAINABLE], CUT)
    assert len(_passed(answers)) >= 12


@pytest.mark.exam
def test_training_steps_with_inductor() -> None:
    answers = _all_right(["train:llama/prefill", "train:bert/encode"], INDUCTOR)
    assert len(_passed(answers)) == 2
