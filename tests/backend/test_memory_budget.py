"""The setting ``memory_budget`` on real models: what runs stays below it, counted to the byte by torch's allocator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

import djinn_fx
from djinn_fx.calibrate.live_memory import Truth, measured
from djinn_fx.errors import SettingsError
from djinn_fx.reasons import ReasonKind
from tests.backend.support import Noted, djinn, same

#: Bytes that a call may hold beside what was planned: numbers as tensors, masks' indices.
SLACK = 4096
OPTIONS: dict[str, Any] = {"cache_limit": 0, "progress": False, "verify": "off"}


def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


IDS = torch.randint(5, 500, (2, 40), generator=torch.Generator().manual_seed(0))


def call(compiled: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = compiled(ids, use_cache=False).logits
    return logits


def truth_of(model: Any, compiled: Any, ids: torch.Tensor = IDS) -> Truth:
    """What a call takes, weights and all."""

    def run(given: list[Any]) -> Any:
        given.clear()
        return call(compiled, ids)

    return measured(run, [ids, *model.parameters(), *model.buffers()])


def smallest(error: BaseException) -> int:
    return int(str(error).split("the smallest budget is ")[1].split(" bytes")[0])


def refused(compiled: Any, *args: Any) -> BaseException:
    with pytest.raises(Exception, match="the smallest budget is") as told:
        call(compiled, *args)
    error: Any = told.value
    inner = error.__cause__ or getattr(error, "inner_exception", None) or error
    assert isinstance(inner, SettingsError)
    return inner


def test_the_smallest_budget_is_true_and_is_kept() -> None:
    model = llama()
    error = refused(djinn(model, {**OPTIONS, "memory_budget": {"cpu": "1MB"}}))
    assert "modeling_llama.py" in str(error) or "weight" in str(error)
    least = smallest(error)
    torch._dynamo.reset()
    assert smallest(refused(djinn(model, {**OPTIONS, "memory_budget": {"cpu": f"{least - 1}B"}}))) == least
    torch._dynamo.reset()
    compiled = djinn(model, {**OPTIONS, "engine": "eager", "memory_budget": {"cpu": f"{least}B"}})
    same(call(compiled), call(model))
    peak = truth_of(model, compiled).peak
    assert least - SLACK <= peak <= least + SLACK
    (planned,) = djinn_fx.status(compiled).memory
    assert planned.foretold == least
    assert "memory, " in str(djinn_fx.status(compiled))


@pytest.mark.parametrize("copies", [0, 1])
def test_a_copy_is_kept_only_where_it_fits(copies: int) -> None:
    model = llama()
    least = smallest(refused(djinn(model, {**OPTIONS, "memory_budget": {"cpu": "1MB"}})))
    torch._dynamo.reset()
    weights = sum({one.untyped_storage().data_ptr(): one.nbytes for one in model.parameters()}.values())
    budget, noted = least + copies * weights + SLACK, Noted()
    compiled = djinn(model, {**OPTIONS, "engine": ["packed", "eager"], "memory_budget": {"cpu": f"{budget}B"}})
    same(call(compiled), call(model))
    kept = sum(one.memory_bytes for contest in djinn_fx.status(compiled).contests for one in contest.entrants)
    assert (kept > 0) == (copies > 0)
    assert truth_of(model, compiled).peak + kept <= budget
    told = [one for one in noted.reasons() if one.kind is ReasonKind.BUDGET]
    assert bool(told) == (copies == 0)


def test_prefill_and_decode_share_one_budget_with_weights_and_cache_counted_once() -> None:
    model = llama()

    def answers(compiled: Any) -> Sequence[torch.Tensor]:
        cache = StaticCache(config=model.config, max_cache_len=64)
        places = torch.arange(40)
        with torch.no_grad():
            first = compiled(IDS, past_key_values=cache, position_ids=places[None]).logits
            second = compiled(IDS[:, :1], past_key_values=cache, position_ids=torch.tensor([[40]])).logits
        return first.clone(), second.clone()

    torch._dynamo.reset()
    big = djinn(model, {**OPTIONS, "engine": "eager", "memory_budget": {"cpu": "1GB"}}, dynamic=False)
    wanted = answers(model)
    same(answers(big), wanted)
    planned = djinn_fx.status(big).memory
    assert {one.need.phase for one in planned} >= {"prefill", "decode"}
    largest = max(one.need.peak.nbytes for one in planned)
    assert all(one.together <= largest + SLACK for one in planned)  # not the sum of the two
    torch._dynamo.reset()
    budget = max(one.together for one in planned)
    same(
        answers(djinn(model, {**OPTIONS, "engine": "eager", "memory_budget": {"cpu": f"{budget}B"}}, dynamic=False)),
        wanted,
    )


def test_a_budget_below_the_largest_op_is_one_clear_error() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return (x[:, None] * x[None]).sum()

    with pytest.raises(Exception, match=r"1.0 kB on cpu do not hold .*aten\.(mul|sum).*the smallest budget is") as told:
        djinn(function, {**OPTIONS, "memory_budget": {"cpu": "1kB"}})(torch.randn(100))
    assert "mul (activation, 40.0 kB)" in str(told.value)


def test_training_is_held_against_it_too() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 64))
    x = torch.randn(50, 64)
    options = {**OPTIONS, "engine": "eager", "memory_budget": {"cpu": "10MB"}}
    compiled = djinn(model, options)
    compiled(x).sum().backward()
    assert {one.need.phase for one in djinn_fx.status(compiled).memory} == {"forward", "backward"}
    torch._dynamo.reset()
    with pytest.raises(Exception, match="the smallest budget is"):
        djinn(model, {**options, "memory_budget": {"cpu": "20kB"}})(x).sum().backward()


def test_it_is_read_from_djinn_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "djinn.yaml").write_text("memory_budget:\n  cpu: 1kB\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="the smallest budget is"):
        djinn(lambda x: x * 2 + 1, OPTIONS)(torch.randn(1000))


@pytest.mark.parametrize("engine", ["eager", "packed"])
def test_a_larger_call_is_refused_before_it_runs_and_smaller_ones_go_on(engine: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
    weights = sum(one.nbytes for one in model.parameters())
    row = (64 + 2 * 256) * 4  # the input, and GELU's two sides
    budget = 2 * weights + 250 * row  # 250 rows beside a copy of the weights, 300 without
    assert weights + 300 * row < budget < 2 * weights + 300 * row
    options = {**OPTIONS, "engine": engine, "memory_budget": {"cpu": f"{budget}B"}}
    compiled = djinn(model, options, dynamic=True)
    with torch.no_grad():
        for rows in (10, 90, 20, 300, 11):
            x = torch.randn(rows, 64)
            same(compiled(x), model(x), rtol=1e-4, atol=1e-5)
        with pytest.raises(SettingsError, match="the smallest budget is"):
            compiled(torch.randn(5000, 64))
        same(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("room", [True, False])
def test_what_inductor_wrote_runs_only_where_it_fits(room: bool) -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ w, -1).cumsum(0) @ w

    x, w, noted = torch.randn(300, 100), torch.randn(100, 100), Noted()
    first = djinn(function, {**OPTIONS, "engine": "inductor", "memory_budget": {"cpu": "1GB"}})
    same(first(x, w), function(x, w), rtol=1e-4, atol=1e-5)
    (graph,) = noted.graphs
    assert graph.plan.memory is not None
    own = graph.plan.memory.peak("cpu").nbytes

    def run(given: list[Any]) -> Any:
        given.clear()
        return first(x, w)

    taken = measured(run, [x, w]).peak
    torch._dynamo.reset()
    budget, noted = max(own, taken) + SLACK if room else own, Noted()
    if not room and taken <= own:
        pytest.skip("it takes no more than the graph's own ops")
    compiled = djinn(function, {**OPTIONS, "engine": "inductor", "memory_budget": {"cpu": f"{budget}B"}})
    same(compiled(x, w), function(x, w), rtol=1e-4, atol=1e-5)
    (graph,) = noted.graphs
    assert [one.engine for one in graph.builds] == ["inductor" if room else "eager"]
    assert room or ReasonKind.BUDGET in {one.kind for one in noted.reasons()}
