"""Graphs of a Llama as a client sends them, with the weights that go into their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

from djinn_fx.remote.delta.graph import GraphForm, graph_form
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.srg.form.hashing import canonical_form
from djinn_fx.srg.lower import lower

CACHE_TOKENS, ADAPTER_RANK = 256, 8


@dataclass(frozen=True)
class Wanted:
    """A graph that the worker is to have.

    Attributes:
        graph: with the digests of its weights.
        payloads: these weights, by digest.
        layers: the digests of each layer's weights, by the layer's name.
    """

    graph: GraphForm
    payloads: Mapping[str, Payload]
    layers: Mapping[str, frozenset[str]]

    def of_changed_layers(self, before: Wanted) -> dict[str, Payload]:
        """The weights of all layers of which any is another than before."""
        names = {name for layer, names in self.layers.items() if names != before.layers.get(layer) for name in names}
        return {name: self.payloads[name] for name in names}


def captured(model: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, list[torch.nn.Parameter | None]]:
    """The canonical form of a call, and for each of its inputs the parameter that goes into it, if one does."""
    torch._dynamo.reset()
    found: list[tuple[Any, list[torch.nn.Parameter | None]]] = []

    def backend(gm: GraphModule, example_inputs: list[Any]) -> Any:
        bound = [one if isinstance(one, torch.nn.Parameter) else None for one in example_inputs]

        def keep(aten: GraphModule, _: Any) -> Any:
            srg = lower(aten)
            ops = [node for node in srg.nodes if node.op == "call_function"]
            results = [node for node in srg.output.args[0] if node is not None]  # type: ignore[union-attr]
            found.append((canonical_form(ops, srg.inputs, results), bound))
            return make_boxed_func(aten.forward)

        return aot_autograd(fw_compiler=keep, inference_compiler=keep, keep_inference_input_mutations=True)(
            gm, example_inputs
        )

    with torch.no_grad():
        torch.compile(model, backend=backend, dynamic=False)(*args, **kwargs)
    ((form, parameters),) = found
    assert len(form["inputs"]) == len(parameters)
    return form, parameters


def wanted(model: torch.nn.Module, captured: tuple[Any, list[torch.nn.Parameter | None]]) -> Wanted:
    """A captured call with the weights as they are now; each is digested."""
    form, parameters = captured
    layer_of = {id(one): _layer(name) for name, one in model.named_parameters()}
    payloads = {number: payload_of(one) for number, one in enumerate(parameters) if one is not None}
    layers: dict[str, set[str]] = {}
    for number, payload in payloads.items():
        layers.setdefault(layer_of[id(parameters[number])], set()).add(payload.digest)
    return Wanted(
        graph=graph_form(form, payloads),
        payloads={one.digest: one for one in payloads.values()},
        layers={name: frozenset(digests) for name, digests in layers.items()},
    )


def _layer(name: str) -> str:
    """``layers.3`` of a decoder's layer, else the module's own name."""
    parts = name.split(".")
    place = parts.index("layers") if "layers" in parts else -1
    return ".".join(parts[place : place + 2]) if place >= 0 else ".".join(parts[:-1])


def prefill(model: Any, tokens: int) -> Any:
    """A call with so many tokens."""
    return captured(model, input_ids=torch.full((1, tokens), 7), use_cache=False)


def decode_step(model: Any) -> Any:
    """A step with one token, which writes its static cache."""
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=CACHE_TOKENS)
    with torch.no_grad():
        model(input_ids=torch.full((1, 8), 7), past_key_values=cache, use_cache=True)
    return captured(_Step(model, cache), torch.full((1, 1), 7))


class _Step(torch.nn.Module):
    def __init__(self, model: Any, cache: Any) -> None:
        super().__init__()
        self.model, self.cache = model, cache

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True).logits
        return logits


# Edits, each of which can be taken back


class _Scaled(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        return out.logits / 0.7, out.logits.argmax(-1)


def edits(model: Any, tokens: int) -> dict[str, Callable[[], Any]]:
    """Calls of the model with something about it changed, by what that is."""
    layers = model.model.layers
    middle = layers[len(layers) // 2]

    def another_literal() -> Any:
        norm = middle.input_layernorm
        old, norm.variance_epsilon = norm.variance_epsilon, 1e-5
        try:
            return prefill(model, tokens)
        finally:
            norm.variance_epsilon = old

    def another_activation() -> Any:
        old, middle.mlp.act_fn = middle.mlp.act_fn, torch.nn.GELU()
        try:
            return prefill(model, tokens)
        finally:
            middle.mlp.act_fn = old

    def without_a_layer() -> Any:
        model.model.layers = torch.nn.ModuleList(one for one in layers if one is not middle)
        old, model.model.config.num_hidden_layers = model.model.config.num_hidden_layers, len(layers) - 1
        try:
            return prefill(model, tokens)
        finally:
            model.model.layers, model.model.config.num_hidden_layers = layers, old

    return {
        "a literal of one layer": another_literal,
        "another activation in one layer": another_activation,
        "ops put in at the end": lambda: prefill(_Scaled(model), tokens),
        "a layer taken out": without_a_layer,
    }


class _Adapted(torch.nn.Module):
    """A linear layer with a product of two thin matrices beside it."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = torch.nn.Parameter(torch.randn(ADAPTER_RANK, base.in_features) * 0.01)
        self.up = torch.nn.Parameter(torch.zeros(base.out_features, ADAPTER_RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        return y + x @ self.down.t() @ self.up.t()


def adapt(model: Any) -> list[torch.nn.Parameter]:
    """Put adapters beside the query and value projections of all layers. Returns what is to be tuned."""
    tuned: list[torch.nn.Parameter] = []
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            made = _Adapted(getattr(layer.self_attn, name))
            setattr(layer.self_attn, name, made)
            tuned += [made.down, made.up]
    return tuned


def step(parameters: list[torch.nn.Parameter], generator: torch.Generator) -> None:
    """Write parameters as an optimizer does: every number becomes another."""
    with torch.no_grad():
        for one in parameters:
            one += 1e-3 * torch.randn(one.shape, generator=generator)
