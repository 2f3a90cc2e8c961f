"""One model's training step as it is, with every layer checkpointed, and under a budget. Runs in a child process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.memory.alive import activation_peak
from bench.memory.graphs import Built, built
from bench.memory.measure import given_to
from djinn_fx.costmodels.memory.activations import activations

Found = dict[str, Any]

_WIDE = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "num_attention_heads": 4, "vocab_size": 2000,
    "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
_GPT = {"vocab_size": 2000, "n_embd": 256, "n_layer": 8, "n_head": 4, "n_positions": 256}
#: Class, class of the configuration, its values.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _WIDE),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**_WIDE, "num_key_value_heads": 2}),
    "opt": ("OPTForCausalLM", "OPTConfig", {**_WIDE, "ffn_dim": 1024, "word_embed_proj_dim": 256}),
    "bert": ("BertForMaskedLM", "BertConfig", _WIDE),
    "gpt2 of 3 layers": ("GPT2LMHeadModel", "GPT2Config", {**_GPT, "n_layer": 3}),
}
BATCH, TOKENS = 4, 128
WAYS = ("as it is", "checkpointed", "budget")


def measure(name: str, turns: int) -> Found:
    """What each way takes, and how long, over so many turns."""
    plain, checkpointed = _graphs(name, checkpointing=False), _graphs(name, checkpointing=True)
    budget = _foretold(checkpointed)
    ours = _graphs(name, checkpointing=False, options={"activation_budget": f"{budget}B"})
    every = dict(zip(WAYS, (plain, checkpointed, ours), strict=True))
    return {
        "model": name,
        "budget": budget,
        "activations": {way: _measured(graphs) for way, graphs in every.items()},
        "foretold": {way: _foretold(graphs) for way, graphs in every.items()},
        "times_s": _times(list(every.values()), turns),
        "furthest_gradient": _furthest(name, budget),
    }


def _model(name: str, checkpointing: bool, dropout: float = 0.0) -> torch.nn.Module:
    import transformers

    model, config, values = MODELS[name]
    made = getattr(transformers, config)(**values)
    for key, value in vars(made).items():
        if "drop" in key and isinstance(value, (int, float)):
            setattr(made, key, dropout)
    torch.manual_seed(0)
    module = getattr(transformers, model)(made).train()
    if checkpointing:
        module.gradient_checkpointing_enable({"use_reentrant": False})
    return _Logits(module)


class _Logits(torch.nn.Module):
    """A model's logits, without a cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.keywords = {} if type(model).__name__.startswith("Bert") else {"use_cache": False}

    def forward(self, ids: Tensor) -> Tensor:
        """From token ids."""
        logits: Tensor = self.model(ids, **self.keywords).logits
        return logits


def _ids() -> Tensor:
    return torch.randint(5, 2000, (BATCH, TOKENS), generator=torch.Generator().manual_seed(1))


def _loss(output: Tensor) -> Tensor:
    return output.float().pow(2).mean()


def _graphs(name: str, *, checkpointing: bool, options: dict[str, Any] | None = None) -> list[Built]:
    return built(_model(name, checkpointing), (_ids(),), {}, "eager", loss_of=_loss, options=options)


def _measured(graphs: Sequence[Built]) -> int:
    return max(activation_peak(one.run, one.args, one.given_away, one.captured.srg.kind) for one in graphs)


def _foretold(graphs: Sequence[Built]) -> int:
    found = []
    for one in graphs:
        assert one.captured.plan.memory is not None, "plan-memory is in every pipeline"
        found.append(activations(one.captured.plan.memory, one.captured.srg.kind).peak("cpu").nbytes)
    return max(found)


def _times(ways: Sequence[Sequence[Built]], turns: int) -> list[list[float]]:
    """Seconds of forward and backward, each way in turn; the first turn warms up."""
    found: list[list[float]] = [[] for _ in ways]
    for turn in range(turns + 1):
        order = range(len(ways)) if turn % 2 else reversed(range(len(ways)))
        for place in order:
            seconds = sum(map(_seconds, ways[place]))
            if turn:
                found[place].append(seconds)
    return found


def _seconds(one: Built) -> float:
    given = given_to(one)
    start = time.perf_counter()
    with torch.no_grad():
        one.run(given)
    return time.perf_counter() - start


def _furthest(name: str, budget: int) -> float:
    """How far a gradient is from eager's at most, dropout and all; as a share of that gradient's largest value."""
    model = _model(name, checkpointing=False, dropout=0.1)
    expected = _gradients(model, model)
    torch._dynamo.reset()
    # With dropout there are masks besides.
    options = {"engine": "eager", "cache_limit": 0, "activation_budget": f"{2 * budget}B", "verify": "off"}
    found = _gradients(model, torch.compile(model, backend="djinn", options=options))
    far = [
        float((one - other).abs().max() / other.abs().max().clamp_min(1e-30))
        for one, other in zip(found, expected, strict=True)
    ]
    return max(far)


def _gradients(model: torch.nn.Module, call: Any) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(2)
    _loss(call(_ids())).backward()
    return [one.grad.clone() for one in model.parameters() if one.grad is not None]
