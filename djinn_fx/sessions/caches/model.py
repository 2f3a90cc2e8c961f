"""A Transformers model as sessions call it: new tokens in, logits of the last one out, pages read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.sessions.caches.batch import Batch
from djinn_fx.sessions.caches.layout import Kept, Layout
from djinn_fx.sessions.caches.library import library
from djinn_fx.sessions.caches.probe import Traits, layout_of, traits_of


@dataclass(frozen=True)
class SessionModel:
    """A model, its layout and how it wants to be called.

    Attributes:
        call: the model as it was given, compiled or not.
        module: beneath it.
        traits: how it is called.
        layout: what it keeps.
        device: where it is.
        compiled: whether ``call`` is compiled: its shapes come in buckets.
    """

    call: Callable[..., Any]
    module: torch.nn.Module
    traits: Traits
    layout: Layout
    device: torch.device
    compiled: bool

    @staticmethod
    def of(model: Any, *, page_tokens: int = 16, quantised: bool = False) -> SessionModel:
        """Look at a model.

        Args:
            model: of Transformers, or what ``torch.compile`` made of one.
            page_tokens, quantised: as for :func:`layout_of`.

        Raises:
            ModelFileError: sessions cannot keep what it keeps.
        """
        compiled = isinstance(model, torch._dynamo.OptimizedModule)
        module = model._orig_mod if compiled else model
        traits = traits_of(module)
        layout = layout_of(module, traits, page_tokens=page_tokens, quantised=quantised)
        return SessionModel(model, module, traits, layout, next(module.parameters()).device, compiled)

    @property
    def exact(self) -> bool:
        """Whether sessions of one batch must be of one length: positions are counted by the cache, padding included."""
        return self.traits.positions is None and any(group.kept is not Kept.ENCODED for group in self.layout.groups)

    @torch.no_grad()
    def run(self, batch: Batch, memory: torch.Tensor, encoder_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Carry out one step.

        Args:
            batch: of sessions whose pages are on the device and have room.
            memory: the device pool.
            encoder_ids: shape (1, tokens), for the first step of a session with an encoder, alone in its batch.

        Returns:
            Logits of the last token of each session, float32, shape (sessions, vocabulary).
        """
        batch.gather(self.layout, memory)
        words = self._words(batch, encoder_ids)
        output = self.call(**words)
        batch.scatter(self.layout, memory)
        logits: torch.Tensor = output.logits[: len(batch.holdings), -1].float()
        return logits

    def _words(self, batch: Batch, encoder_ids: torch.Tensor | None) -> dict[str, Any]:
        caches, traits = library(), self.traits
        words: dict[str, Any] = {"use_cache": True}
        if self.layout.groups:
            words["decoder_attention_mask" if traits.encodes else "attention_mask"] = batch.mask()
        if traits.positions is not None:
            words[traits.positions] = batch.positions()
        if traits.logits_to_keep:
            words["logits_to_keep"] = 1
        cache = caches.Cache(layers=[caches.DummyLayer() if layer is None else layer for layer in batch.layers])
        if not traits.encodes:
            return words | {"input_ids": batch.ids, traits.cache_word: cache}
        if batch.fresh:
            assert encoder_ids is not None
            words |= {"input_ids": encoder_ids, "attention_mask": torch.ones_like(encoder_ids)}
        else:
            words |= {"encoder_outputs": self._encoder_outputs(batch), "attention_mask": batch.encoder_mask()}
        crossing = caches.Cache(layers=batch.crossing)
        both = caches.EncoderDecoderCache(cache, crossing)
        return words | {"decoder_input_ids": batch.ids, traits.cache_word: both}

    def _encoder_outputs(self, batch: Batch) -> Any:
        """What stands for the encoder's answer: its keys and values are in the cache, its shape alone is looked at."""
        config: Any = self.module.config
        shape = (batch.ids.shape[0], batch.encoded, config.hidden_size)
        return library("modeling_outputs").BaseModelOutput(
            last_hidden_state=torch.zeros(shape, dtype=self.layout.dtype, device=self.device)
        )
