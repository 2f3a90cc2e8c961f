"""What bench/engines/generate.py runs in a process of its own: ``generate()`` again and again, token by token."""

from __future__ import annotations

import os
import resource
import statistics
import time
from typing import Any

import torch
from torch._dynamo.utils import counters

import djinn_fx
from bench.harness.measuring import time_calls
from bench.harness.models import backend_of
from djinn_fx.pool.procfs import resident_bytes

VOCABULARY = 8000


def model_of(family: str, layers: int, width: int) -> torch.nn.Module:
    """A decoder of Transformers with random weights."""
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    if family in ("llama", "qwen3"):
        sizes["num_key_value_heads"] = max(1, width // 128)
    if family == "qwen3":
        sizes["head_dim"] = 64
    if family == "opt":
        sizes |= {"ffn_dim": sizes.pop("intermediate_size"), "word_embed_proj_dim": width}
    kinds = {"llama": "Llama", "qwen3": "Qwen3", "gpt_neox": "GPTNeoX", "opt": "OPT"}
    config = getattr(transformers, f"{kinds[family]}Config")(**sizes)
    made = getattr(transformers, f"{kinds[family]}ForCausalLM")(config).eval()
    assert isinstance(made, torch.nn.Module)
    return made


@torch.no_grad()
def generate(
    side: str, family: str, layers: int, width: int, cache: str, batch: int, prompt: int, tokens: int, times: int
) -> dict[str, Any]:
    """Generate greedily, so many times the same.

    Returns:
        By call: seconds until the first token (prefill), seconds of each further token; graphs compiled after ten
        tokens of the first call and at the end; whether all tokens are eager's; bytes of the process and the weights;
        bytes a second at which the weights can be read.
    """
    model: Any = model_of(family, layers, width)
    ids = torch.randint(2, VOCABULARY, (batch, prompt), generator=torch.Generator().manual_seed(1))
    clock = _Clock()
    given = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": tokens,
        "do_sample": False,
        "cache_implementation": cache,
        "stopping_criteria": [clock],
        "disable_compile": True,  # what is compiled is the side's affair
    }
    expected = model.generate(ids, **given)
    clock.take()
    before = resident_bytes(os.getpid())
    if side != "none":
        model.forward = torch.compile(model.forward, backend=backend_of(side))
    calls, right, after_ten = [], True, None
    for _ in range(times):
        clock.start()
        found = model.generate(ids, **given)
        calls.append(clock.take())
        right = right and torch.equal(found, expected)
        after_ten = clock.graphs_at_ten if after_ten is None else after_ten
    weights = sum(one.nbytes for one in model.parameters())
    return {
        "calls": calls,
        "right": right,
        "graphs": [after_ten, counters["stats"]["unique_graphs"]],
        "resident_bytes": resident_bytes(os.getpid()) - before,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "weight_bytes": weights,
        "bandwidth_bytes_s": _bandwidth(weights),
        "status": str(djinn_fx.status(model.forward)) if side == "djinn" else "",
    }


class _Clock:
    """Notes when each token was made; a stopping criterion that never stops."""

    def __init__(self) -> None:
        self._at: list[float] = []
        self.graphs_at_ten = 0
        self.start()

    def start(self) -> None:
        self._at = [time.perf_counter()]

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._at.append(time.perf_counter())
        if len(self._at) == 11:
            self.graphs_at_ten = counters["stats"]["unique_graphs"]
        return torch.zeros(ids.shape[0], dtype=torch.bool)

    def take(self) -> list[float]:
        """Seconds of each token, the first one with the prefill."""
        return [later - sooner for sooner, later in zip(self._at, self._at[1:], strict=False)]


def _bandwidth(nbytes: int) -> float:
    """At which so many bytes are read, by adding them up."""
    memory = torch.ones(max(nbytes // 4, 1 << 20))
    return memory.nbytes / statistics.median(time_calls(memory.sum, 5))
