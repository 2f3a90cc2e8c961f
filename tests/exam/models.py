"""Questions of the exam about the families of tests/families.py: forward, training step, generating tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests import families
from tests.exam.worker import Run, tensors_in
from tests.training_steps import Training

#: Entries of a model's configuration that grow with the scale, each divisible by what goes with it.
_WIDTHS = (
    "hidden_size", "intermediate_size", "n_embd", "d_model", "d_ff", "ffn_dim", "dim", "hidden_dim", "d_inner",
    "encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "embed_dim", "word_embed_proj_dim",
)  # fmt: skip
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")

_build = families.build


def scale_by(factor: int) -> None:
    """Make every model ``factor`` times as wide and as deep as the tiny one (no deeper than 12 layers)."""

    def scaled(model: str, config: str, values: Mapping[str, Any], attention: str | None = None) -> Any:
        grown = dict(values)
        for name in _WIDTHS:
            if name in grown:
                grown[name] *= factor
        for name in _DEPTHS:
            if name in grown and "attention_types" not in grown:
                grown[name] = min(12, grown[name] * factor)
        return _build(model, config, grown, attention)

    families.build = _build if factor == 1 else scaled


def forward(name: str) -> Run:
    """One call of a case: all tensors of its result."""
    case = families.case_named(name)

    def run(compile_it: Callable[[Any], Any]) -> list[Any]:
        torch.manual_seed(0)
        module, args, kwargs = case.make()
        with torch.no_grad():
            return tensors_in(compile_it(module)(*args, **kwargs))

    return run


def train(name: str) -> Run:
    """A forward and a backward: the loss, and the gradient of every parameter."""
    case = families.case_named(name)

    def run(compile_it: Callable[[Any], Any]) -> list[Any]:
        torch.manual_seed(0)
        module, args, kwargs = case.make()
        loss = families.loss_of(compile_it(module)(*args, **kwargs))
        loss.backward()
        parameters = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
        # AOTAutograd gives zeros where eager gives None: to a parameter that has no influence.
        return [loss.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)]

    return run


def steps(name: str) -> Run:
    """Some steps of training, with the losses and all gradients; see :class:`tests.training_steps.Training`."""
    return Training.named(name).run


def generate(name: str) -> Run:
    """Greedy tokens of a decoder, named as ``family/static`` or ``family/dynamic`` after its cache."""
    family, _, cache = name.partition("/")

    def run(compile_it: Callable[[Any], Any]) -> list[Any]:
        model = families.build(*families.DECODERS[family])
        model.forward = compile_it(model.forward)
        config = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "cache_implementation": cache}
        return [model.generate(families.ids(), disable_compile=True, **config)]

    return run
