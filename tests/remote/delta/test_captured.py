"""A traced model at the other side: made again of what travelled, it gives the answers of the one that was sent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from djinn_fx.remote.delta.graph import GraphForm, graph_form
from djinn_fx.remote.delta.messages import Delta, from_frame, to_frame
from djinn_fx.remote.delta.receiver import Receiver
from djinn_fx.remote.delta.sender import Sender
from djinn_fx.remote.wire.frame import decode, joined
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.srg.form.hashing import canonical_form
from djinn_fx.srg.form.rebuild import rebuild
from djinn_fx.srg.form.replay import replay
from djinn_fx.srg.lower import lower
from tests.handmade import functional_prefill


def traced(tokens: int, tuned: bool = False) -> tuple[GraphForm, dict[str, Payload], Any, torch.Tensor]:
    """The graph of a small decoder, its weights, the tokens, and its answer."""
    f, (x, table, blocks), _ = functional_prefill()
    x = x[:, :tokens].contiguous()
    if tuned:
        blocks[-1]["e"] += 0.5
    gm = make_fx(f, tracing_mode="fake")(x, table, blocks)
    srg = lower(gm)
    ops = [node for node in srg.nodes if node.op == "call_function"]
    results = list(srg.output.all_input_nodes)
    weights = {place + 1: payload_of(one) for place, one in enumerate(pytree.tree_leaves((table, blocks)))}
    graph = graph_form(canonical_form(ops, srg.inputs, results), weights)
    return graph, {one.digest: one for one in weights.values()}, x, f(x, table, blocks)


@pytest.mark.parametrize(("tokens", "tuned"), [(7, False), (9, True)], ids=["another length", "another weight"])
def test_it_gives_the_same_answer(tokens: int, tuned: bool) -> None:
    client, worker = Sender(1), Receiver(1)
    for graph, payloads, x, answer in (traced(9), traced(tokens, tuned)):
        said = client.update(graph, payloads)
        for message in said:
            for back in worker.receive(from_frame(decode(joined(to_frame(message))))):
                assert client.receive(back) == []
        assert client.ready
        assert worker.graph is not None
        assert rebuild(worker.graph.form).gm is not None
        run = replay(worker.graph.form, worker.graph.content["devices"])
        (result,) = run(x, *worker.weights.values())
        assert torch.equal(result, answer)
    assert isinstance(said[0], Delta)
    travelled = [payload for message in said[1:] for payload in message.payloads.values()]
    assert sum(one.nbytes for one in travelled) == (32 * 32 * 4 + 128 if tuned else 0)
