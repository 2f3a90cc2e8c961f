"""A model that does not fit into its memory budget at once: it runs in slices of the batch, and keeps to the budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

import djinn_fx
from djinn_fx.calibrate.live_memory import measured
from djinn_fx.errors import SettingsError
from djinn_fx.reasons import ReasonKind
from tests.backend.support import Noted, djinn, same

SLACK = 4096
OPTIONS: dict[str, Any] = {"cache_limit": 0, "progress": False, "verify": "off", "engine": "eager"}
BATCH = 6


class Wide(nn.Module):
    """Its activations are much larger than its weights and its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.relu(self.first(x) * scale)
        return self.last(wide.mean((2, 3))), scale * 2


class Mixed(Wide):
    """Samples take part in each other's answers."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, scale = super().forward(x, scale)
        return logits - logits.mean(0), scale


def model_and_inputs(kind: type[Wide] = Wide) -> tuple[Wide, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return kind().eval(), (torch.randn(BATCH, 3, 24, 24), torch.rand(1))


def need(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """What the graph's own ops take, all samples at once."""
    compiled = djinn(model, {**OPTIONS, "memory_budget": {"cpu": "1GB"}})
    with torch.no_grad():
        compiled(*inputs)
    (planned,) = djinn_fx.status(compiled).memory
    torch._dynamo.reset()
    return planned.need.peak.nbytes


def smallest(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[int, str]:
    """The smallest budget that the error names, and the error."""
    compiled = djinn(model, {**OPTIONS, "memory_budget": {"cpu": "1KB"}})
    with torch.no_grad(), pytest.raises(Exception, match="the smallest budget is") as told:
        compiled(*inputs)
    error: Any = told.value
    inner = error.__cause__ or getattr(error, "inner_exception", None) or error
    assert isinstance(inner, SettingsError)
    torch._dynamo.reset()
    return int(str(inner).split("the smallest budget is ")[1].split(" bytes")[0]), str(inner)


@pytest.mark.parametrize("engine", ["eager", "inductor"])
@pytest.mark.parametrize("share", [0.45, 0.8])
def test_it_runs_in_as_few_slices_as_fit(share: float, engine: str) -> None:
    model, inputs = model_and_inputs()
    budget = int(share * need(model, inputs))
    noted = Noted()
    compiled = djinn(model, {**OPTIONS, "engine": engine, "memory_budget": {"cpu": f"{budget}B"}})
    with torch.no_grad():
        same(compiled(*inputs), model(*inputs))

    def run(given: list[Any]) -> Any:
        given.clear()
        with torch.no_grad():
            return compiled(*inputs)

    truth = measured(run, [*inputs, *model.parameters()])
    (planned,) = djinn_fx.status(compiled).memory
    assert truth.peak <= budget
    if engine == "eager":
        assert abs(truth.peak - planned.foretold) <= SLACK
    (told,) = [one for one in noted.reasons() if one.kind is ReasonKind.BUDGET and "slices" in one.detail]
    size = int(told.detail.split(" slices of ")[1].split(" of ")[0])
    assert size == (2 if share < 0.5 else 3)
    assert told.runner_up == "all samples at once"
    assert planned.need.slices == -(-BATCH // size)
    assert f"{planned.need.slices} slices of the batch" in str(djinn_fx.status(compiled))


def test_the_smallest_budget_is_that_of_one_sample_at_a_time() -> None:
    model, inputs = model_and_inputs()
    least, text = smallest(model, inputs)
    assert least < need(model, inputs) / 2
    assert "one sample at a time" in text
    compiled = djinn(model, {**OPTIONS, "memory_budget": {"cpu": f"{least}B"}})
    with torch.no_grad():
        same(compiled(*inputs), model(*inputs))
    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(Exception, match=f"the smallest budget is {least} bytes"):
        djinn(model, {**OPTIONS, "memory_budget": {"cpu": f"{least - 1}B"}})(*inputs)


def test_what_forbids_slices_is_named() -> None:
    model, inputs = model_and_inputs(Mixed)
    least, text = smallest(model, inputs)
    assert least == need(model, inputs)
    assert "aten.mean.dim" in text
    assert "test_memory_slices.py" in text


def test_training_is_not_parted() -> None:
    model, inputs = model_and_inputs()
    budget = need(model, inputs) // 2
    with pytest.raises(Exception, match="the smallest budget is"):
        djinn(model, {**OPTIONS, "memory_budget": {"cpu": f"{budget}B"}})(*inputs)


def test_engines_compete_for_a_slice() -> None:
    model, inputs = model_and_inputs()
    budget = int(0.8 * need(model, inputs))
    compiled = djinn(model, {**OPTIONS, "engine": ["packed", "eager"], "memory_budget": {"cpu": f"{budget}B"}})
    with torch.no_grad():
        for _ in range(3):
            same(compiled(*inputs), model(*inputs))
    (contest,) = djinn_fx.status(compiled).contests
    assert "packed" in [one.engine for one in contest.entrants]
    assert sum(one.need.peak.nbytes for one in djinn_fx.status(compiled).memory) <= budget


def test_caches_are_filled_slice_by_slice() -> None:
    """The first call makes the cache and gives it back; the count of tokens is written once, whatever the slices."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(5, 50, (BATCH, 40), generator=torch.Generator().manual_seed(0))

    def answers(called: Any) -> tuple[Any, ...]:
        cache = StaticCache(config=config, max_cache_len=64)
        with torch.no_grad():
            first = called(ids, past_key_values=cache, position_ids=torch.arange(40)[None]).logits
            second = called(ids[:, :1], past_key_values=cache, position_ids=torch.tensor([[40]])).logits
        return (
            first.clone(),
            second.clone(),
            *(one for layer in cache.layers for one in (layer.keys, layer.values, layer.cumulative_length)),
        )

    compiled = djinn(model, {**OPTIONS, "memory_budget": {"cpu": "1GB"}}, dynamic=False)
    wanted = answers(model)
    same(answers(compiled), wanted)
    whole = max(one.need.peak.nbytes for one in djinn_fx.status(compiled).memory)
    torch._dynamo.reset()
    noted = Noted()
    compiled = djinn(model, {**OPTIONS, "memory_budget": {"cpu": f"{int(0.7 * whole)}B"}}, dynamic=False)
    same(answers(compiled), wanted)
    told = [one for one in noted.reasons() if one.kind is ReasonKind.BUDGET and "slices" in one.detail]
    assert len(told) >= 1
    assert all(BATCH % int(one.detail.split(" slices of ")[1].split(" of ")[0]) == 0 for one in told)
