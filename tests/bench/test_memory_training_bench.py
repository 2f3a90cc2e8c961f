"""bench/memory/training.py: what is compared, and that its truth counts what a step adds."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.memory import training
from bench.memory.alive import activation_peak
from djinn_fx.srg.record import GraphKind


def test_a_ratio_is_that_of_neighbours() -> None:
    assert training.ratio({"times_s": [[9.0] * 3, [1.0, 2.0, 4.0], [2.0, 2.0, 4.0]]}) == 1.0


def test_activations_are_counted_without_weights_and_gradients() -> None:
    def run(args: list[Tensor]) -> list[Tensor]:
        weight, saved = args
        args.clear()
        product = weight * saved  # 4000 bytes beside the 4000 that were saved
        del saved
        gradient = product + 1
        del product
        return [gradient]

    given = [torch.randn(1000), torch.randn(1000)]
    assert activation_peak(run, given, [1], GraphKind.BACKWARD) == 8000
    assert activation_peak(run, given, [1], GraphKind.FORWARD) == 8000
    assert activation_peak(run, given, [], GraphKind.BACKWARD) == 4000


def test_quick_measures_less() -> None:
    made = training.parser("", runs=1)
    made.add_argument("--models", default=",".join(training.MODELS))
    few, all_of_them = (training.works(training.parse(made, argv)) for argv in (["--quick"], []))
    assert set(few) < set(all_of_them)
