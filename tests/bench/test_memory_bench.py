"""bench/memory/peak.py: that the truth it holds figures against is one, and how it sums up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.cost.models import FAMILIES
from bench.memory import peak
from bench.memory.measure import Work, works
from bench.memory.peak import _summary
from bench.memory.survey import own_bytes
from djinn_fx.calibrate.live_memory import measured


def test_truth_counts_arguments_once_and_every_allocation() -> None:
    def run(args: list[Tensor]) -> list[Tensor]:
        first, view = args
        args.clear()
        made = first + 1  # 4000 bytes
        del first, view
        return [made * 2]  # and 4000 more

    base = torch.randn(1000)
    truth = measured(run, [base, base.view(10, 100)])
    assert truth.held == 4000
    assert sum(event.nbytes for event in truth.events if event.nbytes > 100) == 8000
    assert 12000 <= truth.peak <= 12024  # and two numbers as tensors
    assert {name for name, _ in own_bytes(truth).values()} == {"aten::add", "aten::mul"}


def test_an_argument_given_away_is_released_when_the_call_lets_go_of_it() -> None:
    def run(args: list[Tensor]) -> list[Tensor]:
        total = args.pop().sum()
        return [torch.ones(1000), total]

    given = torch.randn(1000)
    assert measured(run, [given], [0]).peak < measured(run, [given]).peak == 8004


def test_errors_are_summed_up_with_their_signs() -> None:
    found = [{"live": {"foretold": 100 + error, "measured": 100}} for error in (0, -3, 1, 8)]
    told = _summary(found, "live")
    assert told == {
        "graphs": 4,
        "median": pytest.approx(0.02),
        "p95": pytest.approx(0.08),
        "most_under": pytest.approx(0.03),
        "most_over": pytest.approx(0.08),
    }


def test_what_is_measured_follows_the_arguments() -> None:
    chosen = peak.arguments_of(["--trained", "2", "--packed", "3", "--inductor", "1"])
    every = peak._works(chosen)
    assert sum(one.training for one in every) == 2
    assert [sum(one.engine == name for one in every) for name in peak.ENGINES] == [len(FAMILIES) + 2, 3, 1]
    quick = peak._works(peak.arguments_of(["--quick"]))
    assert {one.engine for one in quick} == {"eager", "packed"}


def test_a_training_step_is_of_a_call_that_is_no_decode() -> None:
    for work in works(tuple(FAMILIES), "eager", training=True):
        assert FAMILIES[work.family].calls[work.call].way != "decode"
    assert works(("llama",), "packed", training=False) == [Work("llama", 0, False, "packed")]
