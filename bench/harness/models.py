"""The models that benches run: real architectures of Transformers with seeded random weights, nothing is downloaded."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch

import djinn_fx.backend

#: By name: decoders of 4, 12, 24 and 48 layers, two encoders and a convolutional network.
MODELS = ("llama-4", "llama-12", "llama-24", "llama-48", "bert", "vit", "resnet")

Inputs = dict[str, Any]


def build(name: str, quick: bool = False) -> tuple[torch.nn.Module, Inputs, Inputs]:
    """A model in eval mode, the inputs of its first call, and others of the same form.

    Args:
        name: one of ``MODELS``, or ``llama-N`` with another number of layers.
        quick: the same architecture, narrower, but wide enough to be worth cutting.

    Raises:
        ValueError: no such model.
    """
    torch.manual_seed(0)
    family, _, layers = name.partition("-")
    if family == "llama" and layers.isdecimal() and int(layers) > 0:
        model, inputs, others = _llama(int(layers), quick)
    elif name in _ENCODERS:
        model, inputs, others = _ENCODERS[name](quick)
    else:
        raise ValueError(f"no model {name!r}; known: {', '.join(MODELS)}")
    return model.eval(), inputs, others


def _llama(layers: int, quick: bool) -> tuple[torch.nn.Module, Inputs, Inputs]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256 if quick else 512,
        intermediate_size=768 if quick else 1536,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=512 if quick else 32000,
        use_cache=False,
    )
    first, second = ({"input_ids": torch.randint(5, config.vocab_size, (1, 64)), "use_cache": False} for _ in range(2))
    return LlamaForCausalLM(config), first, second


def _bert(quick: bool) -> tuple[torch.nn.Module, Inputs, Inputs]:
    from transformers import BertConfig, BertModel

    narrow: dict[str, Any] = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 3, "vocab_size": 512}
    config = BertConfig(**(narrow if quick else {}))
    tokens = (torch.randint(5, config.vocab_size, (1, 128)) for _ in range(2))
    first, second = ({"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in tokens)
    return BertModel(config), first, second


def _vit(quick: bool) -> tuple[torch.nn.Module, Inputs, Inputs]:
    from transformers import ViTConfig, ViTForImageClassification

    width: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
    }
    small: dict[str, Any] = {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
    }
    config = ViTConfig(**{**(width if quick else small), "num_labels": 1000})
    return ViTForImageClassification(config), _image(), _image()


def _resnet(quick: bool) -> tuple[torch.nn.Module, Inputs, Inputs]:
    from transformers import ResNetConfig, ResNetForImageClassification

    narrow: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]}
    config = ResNetConfig(**{**(narrow if quick else {}), "num_labels": 1000})  # the default is ResNet-50
    return ResNetForImageClassification(config), _image(), _image()


def _image() -> Inputs:
    return {"pixel_values": torch.randn(1, 3, 224, 224)}


_ENCODERS = {"bert": _bert, "vit": _vit, "resnet": _resnet}


def twin(model: torch.nn.Module) -> torch.nn.Module:
    """A copy that shares the weights: compiled for itself, at no cost in memory."""
    shared = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, dict(shared))


def result(output: Any) -> torch.Tensor:
    """The tensor of a model's output that answers are compared by."""
    for name in ("logits", "last_hidden_state"):
        value = getattr(output, name, None)
        if isinstance(value, torch.Tensor):
            return value
    value = output[0]
    assert isinstance(value, torch.Tensor)
    return value


def backend_of(name: str) -> Any:
    """What to give to ``torch.compile``: the name if it is known to torch, djinn's function if it is not installed."""
    if name == "djinn" and "djinn" not in torch._dynamo.list_backends(None):
        return djinn_fx.backend.djinn
    return name
