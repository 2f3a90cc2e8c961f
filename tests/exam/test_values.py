"""Numbers that tell engines apart: the sweep's own bookkeeping, and a sample of it; all of it is in ``make exam``."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.exam import values_run
from tests.exam.ops import Question
from tests.exam.values import cases, difference, float_kinds, int_kinds

#: Of each engine some operators of every theme.
SAMPLE = {
    "openvino": ("exp", "softmax", "nn.functional.layer_norm", "index_select"),
    "onnxruntime": ("nn.functional.elu", "var", "nn.functional.embedding"),
    "packed": ("div.trunc_rounding",),
    "inductor": ("softmax",),
    "auto": ("log_softmax",),
}
#: Asked in ``make exam`` only: the first two have tests of their own of such numbers, the last answers by the others.
WHOLE_ONLY = ("inductor", "packed", "auto")
NAN, INF = math.nan, math.inf


def question(*tensors: torch.Tensor, name: str = "mul") -> Question:
    return Question(name, 0, lambda *given: list(given), tensors)


@pytest.mark.slow
@pytest.mark.parametrize("share", [2, pytest.param(1, marks=pytest.mark.exam)], ids=["half", "all"])
@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=pytest.mark.exam if name in WHOLE_ONLY else ()) for name in SAMPLE]
)
def test_a_sample_is_eagers(engine: str, share: int) -> None:
    why_not = values_run.missing(engine)
    if why_not is not None:
        pytest.skip(why_not)
    answers = values_run.sweep(engine, SAMPLE[engine][::share], samples=2)
    assert not values_run.troubles(engine, answers), answers
    assert sum(one["calls"] for one in answers) > 20
    assert values_run.share(answers) > 0


@pytest.mark.parametrize(
    ("mine", "other", "found"),
    [
        ([1.0, NAN], [1.0, NAN], None),
        ([1.0, 2.0], [1.0, NAN], "NaN"),
        ([1.0, -INF], [1.0, INF], "inf"),
        ([1.0, 0.0], [1.0, -0.0], "-0"),
        ([1e-8, 0.0], [1.1e-8, 0.0], "numbers"),
        ([0.0, 0.0], [1e-40, 0.0], "numbers"),
        ([1.0, 1e-8], [1.0, 1.1e-8], None),
    ],
)
def test_places_of_special_numbers_are_exact_and_small_numbers_count(
    mine: list[float], other: list[float], found: str | None
) -> None:
    told = difference([torch.tensor(mine)], [torch.tensor(other)])
    assert (told is None) == (found is None)
    assert found is None or f": {found}:" in str(told)


def test_types_sizes_and_strides_are_compared() -> None:
    whole = torch.zeros(2, 3)
    assert "int64" in str(difference([whole], [whole.long()]))
    assert "[3, 2]" in str(difference([whole], [whole.t()]))
    assert "strides" in str(difference([torch.zeros(3, 2)], [whole.t()]))
    assert difference([torch.tensor([3, 4])], [torch.tensor([3, 5])]) is not None
    assert difference([torch.tensor([3, 4])], [torch.tensor([3, 5])], ties=True) is None


def test_a_case_keeps_sizes_strides_and_types() -> None:
    given = question(torch.rand(3, 2).t(), torch.tensor([0, 1]))
    found = dict(cases(given))
    kinds = {kind.partition(" in tensor")[0] for kind in found}
    assert {"a NaN", "all -0", "denormals", "a -1", "a 3", "a 3 + 3", "a 2^31", "all 2^53"} <= kinds
    for tensors in found.values():
        for one, other in zip(tensors, given.tensors, strict=True):
            assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
    assert found["a NaN in tensor 0"][0].isnan().sum() == 1
    assert found["a 2^31 in tensor 1"][1].tolist() == [2**31 + 5, 1]


def test_of_undefined_casts_only_numbers_are_asked_that_the_type_holds() -> None:
    assert not any("NaN" in kind for kind, _ in cases(question(torch.rand(3), name="long")))


def test_numbers_fit_their_types() -> None:
    for dtype in (torch.int8, torch.uint8, torch.int32, torch.int64):
        assert all(torch.tensor(kind.numbers, dtype=dtype) is not None for kind in int_kinds(dtype, [3, 300]))
    assert all(kind.numbers for kind in float_kinds(torch.float16))


def answer(name: str, **more: Any) -> dict[str, Any]:
    return {**values_run.empty(name), "calls": 10, "answered": 5, "harmless": 4, "served": 4, **more}


def test_wrong_answers_and_a_smaller_share_are_troubles(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("values")
    (folder / "baseline.json").write_text('{"openvino": {"add": [4, 4], "mul": [0, 4]}}')
    (folder / "excluded.json").write_text('["mul"]')
    monkeypatch.setattr(values_run, "BASELINE", folder / "baseline.json")
    monkeypatch.setattr(values_run, "EXCLUDED", folder / "excluded.json")
    assert values_run.troubles("openvino", [answer("add")]) == []
    assert values_run.troubles("openvino", [answer("add", wrong=[["float32 0", "a NaN", "1.0 for nan"]])])
    assert values_run.troubles("openvino", [answer("add", served=3)])
    assert values_run.troubles("openvino", [answer("mul", served=0, excluded=[["", "", ""]])]) == []
    assert values_run.troubles("openvino", [answer("add", excluded=[["", "", ""]])])


def test_a_call_that_ends_its_process_is_wrong_and_the_rest_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def ask(names: list[str], **_: Any) -> list[dict[str, Any]]:
        asked.append(names)
        died = {**values_run.empty("div"), "crashed": ["code -8"], "at": "7 djinn div int64 0: zeros"}
        return [died if name == "values:div" else answer(name) for name in names]

    monkeypatch.setattr(values_run, "ask", ask)
    found = {one["name"]: one for one in values_run.sweep("inductor", ["add", "div"])}
    assert asked == [["values:add", "values:div"], ["values:div!7"]]
    assert found["add"]["wrong"] == []
    assert found["div"]["wrong"] == [["", "div int64 0: zeros", "code -8"]]
