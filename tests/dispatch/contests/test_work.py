"""How much a call is, and so which calls share a trial of engines."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch
from torch import Tensor, nn

from djinn_fx.dispatch.contests.contestants import ContestBySize
from djinn_fx.dispatch.contests.work import CallWork
from djinn_fx.srg.form.rebuild import rebuild, size_hints
from tests.capture import capture
from tests.concrete import whole

WIDTH, LAYERS = 16, 6


class Decoder(nn.Module):
    """Each layer reads its weight and a cache of its own; the vocabulary is read once."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.vocabulary = nn.Parameter(torch.randn(100, WIDTH))

    def forward(self, hidden: Tensor, caches: list[Tensor]) -> Tensor:
        for layer, cache in zip(self.layers, caches, strict=True):
            key = layer(hidden)
            weights = torch.softmax(key @ torch.cat([cache, key]).T, dim=-1)
            hidden = weights @ torch.cat([cache, key])
        return hidden @ self.vocabulary.T


class Served:
    """In a contest's place."""

    decided = False

    def begin_with(self, engine: str | None) -> None:
        assert engine is None

    def __call__(self, args: list[Any]) -> list[Any]:
        return args


FIXED = LAYERS * WIDTH * WIDTH + 100 * WIDTH


def work_of(model: nn.Module, *args: Any) -> CallWork:
    """Of the graph of a call."""
    return CallWork(whole(capture(model, args)[0]))


def caches(length: int, apart: bool = False) -> list[Tensor]:
    made = [torch.randn(length + apart * i, WIDTH) for i in range(LAYERS)]
    for one in made:
        torch._dynamo.mark_dynamic(one, 0)
    return made


def of_length(length: int, arguments: int = 50) -> list[Tensor]:
    """A call's arguments, as far as work depends on them: wherever a graph has those whose sizes differ."""
    return [torch.empty(length, WIDTH)] * arguments


def test_the_caches_of_a_decoder_are_added_up() -> None:
    # Each length may be a symbol of its own: their product is another class of work at every other token.
    for apart in (False, True):
        work = work_of(Decoder(), torch.randn(1, WIDTH), caches(65, apart))
        assert work.differs
        assert work.fixed == FIXED
        assert work(of_length(100)) == FIXED + LAYERS * 100 * WIDTH


def test_a_decoders_steps_share_a_contest_while_its_weights_are_most_of_what_it_reads() -> None:
    work = work_of(Decoder(), torch.randn(1, WIDTH), caches(65, apart=True))
    made: list[tuple[int]] = []

    def contest(kind: tuple[int], others: ContestBySize) -> Any:
        made.append(kind)
        return Served()

    by_size = ContestBySize(work, contest)
    for length in range(1, 3 * FIXED // (LAYERS * WIDTH)):
        by_size(of_length(length))
    assert len(made) <= 2


def test_in_a_prefill_weights_meet_as_many_rows_as_there_are_tokens() -> None:
    tokens = torch.randn(65, WIDTH)
    torch._dynamo.mark_dynamic(tokens, 0)
    work = work_of(nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, WIDTH)), tokens)
    assert work.fixed == 0
    assert work(of_length(200)) == 200 * WIDTH


def test_a_graph_that_a_later_process_makes_of_its_text_counts_the_same() -> None:
    """Else what was noted of its trials would not be found."""
    region = whole(capture(Decoder(), (torch.randn(1, WIDTH), caches(65, apart=True)))[0])
    form = json.loads(json.dumps(region.canonical))
    made = rebuild(form, hints=size_hints(form, region.example_inputs))
    again = CallWork(dataclasses.replace(region, gm=made.gm, example_inputs=made.example_inputs))
    assert again.fixed == FIXED
    assert again(of_length(100)) == CallWork(region)(of_length(100))


def test_a_size_that_no_tensor_shows_multiplies() -> None:
    def repeated(values: Tensor, times: int) -> Tensor:
        return values.repeat(times)

    region = whole(capture(repeated, (torch.randn(12), 5), dynamic=True)[0])
    work = CallWork(region)
    numbers = [place for place, one in enumerate(region.example_inputs) if not isinstance(one, Tensor)]
    small = [3 if place in numbers else torch.empty(12) for place in range(len(region.example_inputs))]
    large = [6 if place in numbers else torch.empty(12) for place in range(len(region.example_inputs))]
    assert work(large) == 2 * work(small) > 0


def test_where_nothing_differs_there_is_one_contest() -> None:
    work = work_of(Decoder(), torch.randn(1, WIDTH), [torch.randn(65, WIDTH) for _ in range(LAYERS)])
    assert not work.differs
