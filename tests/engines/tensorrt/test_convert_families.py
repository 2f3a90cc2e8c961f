"""Layers shaped like those of eleven families: converted whole, equal to eager, and built to a plan for sm89.

The models are whole ones of one layer, so that embeddings and masks are there; heads are of 16, as TensorRT's kernels
for half precision want at least. With sizes that change, and in all types, ``-m slow`` runs the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx.engines.tensorrt.building.worker import build
from tests.engines.tensorrt.converting import needs_tensorrt, run, same
from tests.families import DECODERS, SEQ2SEQ, TEXT_ENCODERS, VISION, ids, noise
from tests.families import build as model_of
from tests.sweeps import in_turn

pytestmark = needs_tensorrt

ONE = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4}
GPT = {"n_layer": 1, "n_embd": 64}
PAIR = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 64}

#: A model, how it is called, two calls with other batches and lengths.
Made = tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]


def decoder(family: str) -> Made:
    """On token ids; the second call is wider and longer."""
    model, config, values = DECODERS[family]
    changed = {**values, **(GPT if family == "gpt2" else ONE), **({"head_dim": 16} if "head_dim" in values else {})}
    module = model_of(model, config, changed)
    return module, (ids(),), (ids(9, 3),)


def text_encoder() -> Made:
    """BERT, with padding."""
    model, config, values = TEXT_ENCODERS["bert"]
    module = model_of(model, config, {**values, **ONE})
    padding = torch.ones(2, 7, dtype=torch.int64)
    padding[0, -2:] = 0
    return module, (ids(), padding), (ids(9, 3), torch.ones(3, 9, dtype=torch.int64))


def vision(family: str, **changes: Any) -> Made:
    """On images; the second call has more of them."""
    model, config, values = VISION[family]
    module = model_of(model, config, {**values, **changes})
    size = values.get("image_size", 32)
    return module, (noise(2, 3, size, size),), (noise(3, 3, size, size),)


def pair(family: str) -> Made:
    """An encoder and a decoder."""
    model, config, values = SEQ2SEQ[family]
    module = model_of(model, config, {**values, **(PAIR if family == "whisper" else {"num_layers": 1, "d_kv": 16})})
    first = noise(2, 8, 20) if family == "whisper" else ids(11)
    second = noise(3, 8, 20) if family == "whisper" else ids(13, 3)
    return module, (first, None, ids()), (second, None, ids(5, 3))


FAMILIES: dict[str, Callable[[], Made]] = {
    "llama": lambda: decoder("llama"),
    "mistral": lambda: decoder("mistral"),
    "qwen": lambda: decoder("qwen3"),
    "gemma": lambda: decoder("gemma2"),
    "gpt2": lambda: decoder("gpt2"),
    "bert": text_encoder,
    "t5": lambda: pair("t5"),
    "whisper": lambda: pair("whisper"),
    "vit": lambda: vision("vit", **ONE),
    "resnet": lambda: vision("resnet", depths=[1, 1]),
    "convnext": lambda: vision("convnext", depths=[1, 1]),
}

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def function_of(family: str, module: Any) -> Callable[..., Tensor]:
    """Its main result, without a cache."""

    def call(*args: Any) -> Tensor:
        if family in ("t5", "whisper"):
            given = {"input_features" if family == "whisper" else "input_ids": args[0], "decoder_input_ids": args[2]}
            result: Tensor = module(**given, use_cache=False).logits
        elif family in DECODERS or family in ("qwen", "gemma"):
            result = module(*args, use_cache=False).logits
        else:
            result = module(*args)[0]
        return result

    return call


def convert_and_build(family: str, dtype: torch.dtype, dynamic: bool) -> None:
    """No node is refused, the model gives what eager gives, and TensorRT builds it."""
    module, *calls = FAMILIES[family]()
    function = function_of(family, module.to(dtype))  # type: ignore[attr-defined]
    calls = [
        tuple(one.to(dtype) if isinstance(one, Tensor) and one.is_floating_point() else one for one in call)
        for call in calls
    ]
    session, actual, expected = run(function, *calls[: 1 + dynamic], dynamic=dynamic)
    assert not session.refusals, session.refusals
    assert session.calls == 1 + dynamic
    assert session.declined == 0
    assert bool(session.conversions[0].ranges) == dynamic
    for mine, other in zip(actual, expected, strict=True):
        # Against the largest: a half that is rounded once more or less shows in every later layer.
        scale = other[0].abs().max().item()
        same(mine[0] / scale, other[0] / scale, 2)
    for conversion in session.conversions:
        # A flag makes each call wait for the device: T5's buckets of distances are computed indices.
        assert conversion.calling.flag is None or family == "t5"
        request = {**json.loads(json.dumps(conversion.request())), "flavour": "tensorrt_rtx", "target": "sm89"}
        header, plan = build(request, (conversion.model,))
        assert len(plan) > 10_000
        assert [name for name, _, _ in header["inputs"]] == [one.name for one in conversion.calling.inputs]


@pytest.mark.parametrize(("family", "dtype"), in_turn(list(FAMILIES), DTYPES), ids=str)
def test_a_family_is_converted_and_built(family: str, dtype: torch.dtype) -> None:
    convert_and_build(family, dtype, False)


def test_a_family_is_converted_and_built_for_sizes_that_change() -> None:
    convert_and_build("llama", torch.float16, True)


@pytest.mark.exam
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_for_sizes_that_change(family: str, dtype: torch.dtype) -> None:
    convert_and_build(family, dtype, True)


def test_identical_layers_are_one_network() -> None:
    def digest(seed: int) -> str:
        torch.manual_seed(seed)
        layer = torch.nn.TransformerEncoderLayer(32, 2, 48, 0.0, batch_first=True, norm_first=True).train()
        session, _, _ = run(layer, (noise(2, 5, 32),))
        return session.conversions[0].digest()

    assert digest(0) == digest(1), "weights are inputs"
