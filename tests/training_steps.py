"""Training steps of the families of tests/families.py: AdamW with gradient accumulation, by eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from tests import families

#: Decoders, encoders that predict masked words, and encoders with decoders, by the name of their family.
TRAINED = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom",
    "falcon", "mpt", "phi", "phi3", "stablelm", "starcoder2", "olmo2", "cohere", "granite", "biogpt",
    "bert", "roberta", "electra", "t5", "bart",
)  # fmt: skip
ATTENTION = ("eager", "sdpa")
STEPS, PIECES = 3, 2


@dataclass(frozen=True, kw_only=True)
class Training:
    """One way of training one family.

    Attributes:
        family: see :data:`TRAINED`.
        attention: ``eager`` or ``sdpa``.
        labels: whether the model computes the loss itself.
        checkpointing: whether activations are computed again in the backward.
    """

    family: str
    attention: str = "sdpa"
    labels: bool = True
    checkpointing: bool = False

    def __str__(self) -> str:
        labels, checkpointing = "labels" if self.labels else "logits", "again" if self.checkpointing else "kept"
        return f"{self.family}/{self.attention}/{labels}/{checkpointing}"

    @staticmethod
    def named(name: str) -> Training:
        """The one whose text this is."""
        family, attention, labels, checkpointing = name.split("/")
        return Training(
            family=family, attention=attention, labels=labels == "labels", checkpointing=checkpointing == "again"
        )

    def model(self) -> Any:
        """A seeded model in training mode, without dropout."""
        name, config, values = _entry(self.family)
        made = getattr(transformers, config)(**values)
        for key, value in vars(made).items():
            if "drop" in key and isinstance(value, (int, float)):
                setattr(made, key, 0.0)
        if self.family == "t5":
            made.decoder_start_token_id = 0
        made._attn_implementation = self.attention
        torch.manual_seed(0)
        model = getattr(transformers, name)(made).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if self.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    def run(self, compile_it: Callable[[Any], Any]) -> list[torch.Tensor]:
        """Train: each piece's loss, and before each step of the optimizer every gradient."""
        model = self.model()
        call = compile_it(model)
        # Where a gradient is nothing but rounding, Adam makes a whole step of it; a large eps makes it none.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-2)
        found: list[torch.Tensor] = []
        for step in range(STEPS):
            for piece in range(PIECES):
                loss = self._loss(call, step * PIECES + piece) / PIECES
                loss.backward()
                found.append(loss.detach())
            found += [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
            optimizer.step()
            optimizer.zero_grad()
        return found

    def _loss(self, call: Callable[..., Any], seed: int) -> torch.Tensor:
        words = torch.randint(5, families.VOCAB, (2, 9), generator=torch.Generator().manual_seed(seed))
        given: dict[str, Any] = {"input_ids": words}
        if self.labels:
            given["labels"] = words
            return call(**given).loss  # type: ignore[no-any-return]
        if self.family in families.SEQ2SEQ:
            given["decoder_input_ids"] = words.flip(0)
        return families.loss_of(call(**given))


def _entry(family: str) -> tuple[str, str, dict[str, Any]]:
    """Class, class of the configuration, its values."""
    for table in (families.DECODERS, families.SEQ2SEQ):
        if family in table:
            return table[family]
    model, config, values = families.TEXT_ENCODERS[family]
    return model.removesuffix("Model").removesuffix("ForMaskedLM") + "ForMaskedLM", config, values


def all_ways(family: str) -> Sequence[Training]:
    """Every way of training a family that its model supports."""
    supported = getattr(transformers, _entry(family)[0])._supports_sdpa
    return [
        Training(family=family, attention=attention, labels=labels, checkpointing=checkpointing)
        for attention in (ATTENTION if supported else ATTENTION[:1])
        for labels in (True, False)
        for checkpointing in (False, True)
    ]
