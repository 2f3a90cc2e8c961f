"""The bench of the graph protocol sends what the model computes with, and counts layers that changed; that of the wire
times ways that give the tensor back.
"""

from __future__ import annotations

import pytest
import torch

from bench.harness.models import build
from bench.remote.delta_protocol import Session
from bench.remote.session import adapt, prefill, step, wanted
from bench.remote.wire import AGAIN, BARRED, DTYPES, OURS, sampled
from djinn_fx.srg.form.replay import replay


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build("llama-2", quick=True)[0]


def test_what_the_worker_has_gives_the_models_answer(model: torch.nn.Module) -> None:
    session = Session()
    first = session.want("first", wanted(model, prefill(model, 9)))
    assert first.sent == first.whole == first.everything
    call = prefill(model, 12)
    other = session.want("another length", wanted(model, call))
    assert other.sent.weights == other.whole.weights == 0 < other.everything.weights
    assert 0 < other.sent.deflated < other.sent.graph < other.whole.graph
    graph, bound = session.worker.graph, session.worker.weights
    assert graph is not None
    run = replay(graph.form, graph.content["devices"])
    free = {"SymInt": 12, "int64": torch.full((1, 12), 7)}
    inputs = [bound.get(n, free.get(value[0])) for n, (value, _) in enumerate(graph.form["inputs"])]
    buffers = dict(model.named_buffers())
    missing = [n for n, one in enumerate(inputs) if one is None]
    assert len(missing) <= len(buffers)
    for n in missing:
        inputs[n] = buffers["model.rotary_emb.inv_freq"]
    with torch.no_grad():
        wanted_logits = model(input_ids=torch.full((1, 12), 7), use_cache=False).logits
        results = run(*inputs)
    logits = next(one for one in results if one.shape == wanted_logits.shape)
    torch.testing.assert_close(logits, wanted_logits)


def test_only_adapters_travel_where_only_they_are_tuned(model: torch.nn.Module) -> None:
    session = Session()
    tuned = adapt(model)
    call = prefill(model, 9)
    session.want("first", wanted(model, call))
    step(tuned, torch.Generator().manual_seed(0))
    found = session.want("tuned", wanted(model, call))
    numbers = sum(one.numel() * 4 for one in tuned)
    assert numbers < found.sent.weights < numbers + 1000 * len(tuned)
    layers = sum(one.numel() * 4 for one in model.model.layers.parameters())  # type: ignore[union-attr, operator]
    assert layers < found.whole.weights < found.everything.weights


@pytest.mark.parametrize("dtype", DTYPES)
def test_ways_over_the_wire_give_the_tensor_back_and_are_timed_alike(dtype: str) -> None:
    found = sampled(torch.randn(64).to(DTYPES[dtype]), dtype, 3)
    assert set(BARRED) < set(found)
    assert {"pickle out of band", OURS, AGAIN} == set(found["carried"])
    assert {"pickle", "torch.save", "safetensors", "numpy.save", OURS, AGAIN} == set(found["joined"])
    assert all(len(times) == 3 for series in found.values() for times in series.values())
