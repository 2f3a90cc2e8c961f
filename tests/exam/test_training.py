"""Training steps of Transformers families with the default engine: loss and every gradient are eager's."""

from __future__ import annotations

import pytest

from tests.exam.pool import ask
from tests.training_steps import TRAINED, all_ways

OPTIONS = {"progress": False}


@pytest.mark.exam
@pytest.mark.parametrize("family", TRAINED)
def test_training_steps(family: str) -> None:
    """Every way of attending, with and without labels, with activations kept and computed again."""
    names = [f"steps:{training}" for training in all_ways(family)]
    answers = ask(names, options=OPTIONS, processes=1, timeout=900.0)
    bad = [line for answer in answers for key in ("wrong", "crashed") for line in answer[key]]
    skipped = [answer["skipped"] for answer in answers if answer["skipped"]]
    assert not bad, "\n".join(bad)
    assert sum(answer["passed"] for answer in answers) == len(names), skipped
