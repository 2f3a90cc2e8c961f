"""Graphs of one model that share weights and state are placed together: decode goes where prefill's weights are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from djinn_fx.backend import compilations
from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.passes.placing.pins import module_path
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg.record import Residency
from tests.runtime.devices.two import OPTIONS, needs_two

pytestmark = needs_two

PROMPT, NEW = 12, 6
#: The first three of the layers on the second device, against the order of a pipeline: nobody would do that by himself.
PINS = {"model.layers.0-2": "cpu:1", "model.layers.3": "cpu:0"}


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def generated(model: LlamaForCausalLM, cache: StaticCache, prefill: Any, decode: Any) -> list[int]:
    """Tokens by greedy choice: the first call reads the prompt, each other one the token before."""
    ids = torch.arange(PROMPT)[None] * 7 % model.config.vocab_size
    places, tokens = torch.arange(PROMPT)[None], []
    with torch.no_grad():
        for step in range(NEW):
            run = prefill if not step else decode
            logits = run(input_ids=ids, past_key_values=cache, position_ids=places).logits
            tokens.append(int(logits[0, -1].argmax()))
            ids, places = torch.tensor([[tokens[-1]]]), torch.tensor([[PROMPT + step]])
    return tokens


def cache_of(model: LlamaForCausalLM) -> StaticCache:
    return StaticCache(config=model.config, max_cache_len=64)


def djinn(model: LlamaForCausalLM, **options: Any) -> Any:
    return torch.compile(
        model, backend="djinn", dynamic=False, options={**OPTIONS, "engine": "eager", "cache_limit": 0, **options}
    )


def layers_of(graph: CapturedGraph) -> dict[str, set[str]]:
    """The devices of the products of each layer."""
    found: dict[str, set[str]] = {}
    for node in graph.srg.ops:
        path = module_path(node).split(".")
        if "mm" in graph.srg.record(node).op and "layers" in path:
            found.setdefault(path[path.index("layers") + 1], set()).add(str(graph.srg.record(node).device))
    return found


def newest(count: int) -> Sequence[CapturedGraph]:
    return compilations()[-count:]


def test_decode_lies_where_prefill_s_weights_and_cache_are_and_tokens_are_eager_s() -> None:
    model = llama()
    cache = cache_of(model)
    wanted = generated(model, cache_of(model), model, model)
    # Without this half of the weights would fit nowhere: by itself decode would begin on the first device.
    pinned = djinn(model, pin=PINS)
    assert generated(model, cache, pinned, pinned) == wanted
    prefill, decode = newest(2)
    assert layers_of(prefill) == layers_of(decode)
    assert layers_of(prefill)["0"] == {"cpu:1"}
    assert layers_of(prefill)["3"] == {"cpu:0"}


def test_without_pins_decode_follows_memory_s_cut_of_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    held = sum({one.untyped_storage().data_ptr(): one.nbytes for one in model.parameters()}.values())
    devices = {name: {**row, "memory": f"{int(held * 0.75)}B"} for name, row in OPTIONS["devices"].items()}
    run = djinn(model, devices=devices)
    assert generated(model, cache_of(model), run, run) == generated(model, cache_of(model), model, model)
    prefill, decode = newest(2)
    where = layers_of(prefill)
    assert set().union(*where.values()) == {"cpu:0", "cpu:1"}
    assert layers_of(decode) == where
    told = [reason.detail for reason in decode.plan.reasons if reason.kind is ReasonKind.PLACED]
    assert any("go where another graph keeps their weights and state" in one for one in told)
    assert not any("another graph" in reason.detail for reason in prefill.plan.reasons)
    state = [node for node in decode.srg.inputs if decode.srg.record(node).residency is Residency.STATE]
    caches = [node for node in state if decode.srg.record(node).nbytes > 4096]
    assert caches
    for node in caches:  # each layer's cache with the attention that reads it
        assert len({decode.srg.record(user).device for user in node.users}) == 1


def test_pins_of_the_second_graph_go_before_where_the_first_is() -> None:
    model = llama()
    first, second = djinn(model, pin=PINS), djinn(model, pin={"model.layers": "cpu:0"})
    wanted = generated(model, cache_of(model), model, model)
    assert generated(model, cache_of(model), first, second) == wanted
    prefill, decode = newest(2)
    assert layers_of(prefill)["0"] == {"cpu:1"}
    assert set().union(*layers_of(decode).values()) == {"cpu:0"}


def test_what_does_not_fit_where_the_first_graph_is_goes_elsewhere_and_says_so() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    small, large = torch.randn(2, 64), torch.randn(400, 64)
    devices = {"cpu:0": {**OPTIONS["devices"]["cpu:0"], "memory": "60kB"}, "cpu:1": OPTIONS["devices"]["cpu:1"]}
    run = torch.compile(
        model, backend="djinn", dynamic=False, options={"devices": devices, "engine": "eager", "cache_limit": 0}
    )
    with torch.no_grad():
        assert torch.equal(run(small), model(small))
        assert torch.equal(run(large), model(large))  # its values alone take 100 kB
    first, second = newest(2)
    assert {region.device for region in first.plan.regions} == {"cpu:0"}
    assert {region.device for region in second.plan.regions} == {"cpu:1"}
    assert any("there is no room where another graph keeps" in reason.detail for reason in second.plan.reasons)
