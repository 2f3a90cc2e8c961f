"""Steps over pages against the model's own forward over the whole context, for every kind of cache."""

from __future__ import annotations

import pytest
import torch

from djinn_fx.errors import ModelFileError
from djinn_fx.guard.compare import difference
from djinn_fx.sessions.caches.layers import dequantise, quantise
from djinn_fx.sessions.caches.layout import Kept
from djinn_fx.sessions.caches.model import SessionModel
from tests.sessions.models import KINDS, build, go_on, looked_at, manual, tokens

LENGTHS = {"a": 37, "bb": 53, "ccc": 80}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "int8"])
def test_tokens_and_logits_are_those_of_the_model_itself(kind: str) -> None:
    model = looked_at(kind)
    manager, mover = manual(model, 400)
    for key in LENGTHS:
        manager.open(key)
    first = {key: tokens(count, count) for key, count in LENGTHS.items()}
    answers = go_on(manager, mover, first, 5)
    more = {key: tokens(5, 9 + count) for key, count in LENGTHS.items()}
    again = go_on(manager, mover, more, 5)
    for key in LENGTHS:
        context: list[int] = []
        for new, answered in ((first[key], answers[key]), (more[key], again[key])):
            context += new
            for token, gap in zip(answered.tokens, answered.gaps, strict=True):
                logits = whole(model, context, manager.conversations[key].encoder_ids)
                best = torch.topk(logits, 2)
                if token != int(best.indices[0]):  # a draw, as far as rounding goes
                    assert float(best.values[0] - logits[token]) < 1e-3, key
                assert gap == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-3)
                context.append(token)
        assert manager.conversations[key].tokens == context


def whole(model: SessionModel, context: list[int], encoder_ids: torch.Tensor | None) -> torch.Tensor:
    """Logits behind the context's last token, computed without a cache."""
    ids = torch.tensor([context])
    words = {"input_ids": ids}
    if encoder_ids is not None:
        words = {"input_ids": encoder_ids, "decoder_input_ids": ids}
    with torch.no_grad():
        logits: torch.Tensor = model.module(**words, use_cache=False).logits[0, -1].float()
    return logits


@pytest.mark.parametrize("kind", ["full", "linear"])
def test_logits_differ_by_no_more_than_the_guard_allows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = looked_at(kind)
    manager, mover = manual(model, 400)
    seen = []
    run = type(model).run
    monkeypatch.setattr(type(model), "run", lambda *args: seen.append(run(*args)) or seen[-1])
    manager.open("a")
    context = tokens(77, 1)
    go_on(manager, mover, {"a": context}, 1)
    assert difference([seen[-1][0]], [whole(model, list(context), None)]) is None


def test_rounding_to_int8_is_off_by_half_a_step_at_most() -> None:
    states = torch.randn(3, 2, 5, 16)
    codes, scales = quantise(states)
    assert codes.dtype == torch.int8
    assert scales.shape == (3, 2, 5, 1)
    assert ((dequantise((codes, scales), torch.float32) - states).abs() <= scales / 2 * 1.0001).all()
    assert not dequantise(quantise(torch.zeros(1, 4)), torch.float32).any()


def test_an_int8_cache_is_a_quarter_and_a_little() -> None:
    full, small = (looked_at(kind).layout for kind in ("full", "int8"))
    heads, width = 2, 16
    assert full.token_bytes == 2 * 2 * heads * width * 4
    assert small.token_bytes == 2 * 2 * (heads * width + heads * 4)


def test_what_each_kind_keeps() -> None:
    kept = {kind: tuple(group.kept for group in looked_at(kind).layout.groups) for kind in KINDS}
    assert kept["full"] == kept["int8"] == kept["linear"] == (Kept.ALL,)
    assert kept["window"] == (Kept.WINDOW,)
    assert set(kept["mixed"]) == {Kept.ALL, Kept.WINDOW}
    assert kept["recurrent"] == ()
    assert kept["encoder"] == kept["encoder-positions"] == (Kept.ALL, Kept.ENCODED)
    states = {kind for kind in KINDS if looked_at(kind).layout.states}
    assert states == {"linear", "recurrent"}
    assert {kind for kind in KINDS if looked_at(kind).layout.shares} == {"full", "int8"}


def test_a_window_keeps_what_it_sees_and_no_more() -> None:
    manager, mover = manual(looked_at("window"), 100)
    one = manager.open("a")
    go_on(manager, mover, {"a": tokens(200, 1)}, 2)
    size, (group,) = manager.store.device.page_bytes, manager.model.layout.groups
    each = group.page_tokens(size)
    assert one.holding.cached == 201
    assert len(one.holding) == -(-201 // each) - (201 - 24 + 1) // each


def test_a_layer_that_keeps_something_else_is_refused_by_name() -> None:
    model = build("full")
    transformers = pytest.importorskip("transformers")
    indexed = getattr(transformers.cache_utils, "DynamicIndexedLayer", None)
    if indexed is None:
        pytest.skip("this Transformers has no layer that is not paged")

    class Other(transformers.cache_utils.DynamicLayer):
        pass

    forward = model.forward

    def odd(input_ids: torch.Tensor, cache: object = None, **words: object) -> object:
        made = forward(input_ids=input_ids, cache=cache, **words)
        cache.layers[1].__class__ = Other  # type: ignore[attr-defined]
        return made

    model.forward = odd  # type: ignore[method-assign,assignment]
    with pytest.raises(ModelFileError, match="layer 1 keeps a Other"):
        SessionModel.of(model)


def test_a_model_without_a_cache_is_refused() -> None:
    with pytest.raises(ModelFileError, match="takes no cache"):
        SessionModel.of(torch.nn.Linear(2, 2))
