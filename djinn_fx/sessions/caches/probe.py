"""Finding out what a model keeps: two tokens are run, and its own cache is looked at."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.errors import ModelFileError
from djinn_fx.sessions.caches.layout import Group, Kept, Layout, Segment, State, page_size
from djinn_fx.sessions.caches.library import library

#: What a model's forward has called its cache, the newest name first.
_CACHE_WORDS = ("cache", "past_key_values", "cache_params")


@dataclass(frozen=True)
class Traits:
    """How a model wants to be called.

    Attributes:
        cache_word: the argument that takes the cache.
        positions: the argument that takes each token's position; None if positions are counted by the cache.
        logits_to_keep: whether it can be asked for the last token's logits alone.
        encodes: it has an encoder.
    """

    cache_word: str
    positions: str | None
    logits_to_keep: bool
    encodes: bool


def traits_of(module: torch.nn.Module) -> Traits:
    """Read a model's ``forward``.

    Raises:
        ModelFileError: it takes no cache.
    """
    names = inspect.signature(module.forward).parameters
    word = next((word for word in _CACHE_WORDS if word in names), None)
    if word is None or not hasattr(module, "config"):
        raise ModelFileError(
            f"{type(module).__name__} takes no cache: sessions need a causal or encoder-decoder model of Transformers"
        )
    config: Any = module.config
    encodes = bool(config.is_encoder_decoder)
    positions = "decoder_position_ids" if encodes else "position_ids"
    return Traits(word, positions if positions in names else None, "logits_to_keep" in names, encodes)


def new_cache(module: torch.nn.Module, traits: Traits) -> Any:
    """An empty cache of the model's own."""
    caches = library()
    config: Any = module.config
    if not traits.encodes:
        return caches.DynamicCache(config=config)
    decoder = config.get_text_config(decoder=True)
    return caches.EncoderDecoderCache(caches.DynamicCache(config=decoder), caches.DynamicCache(config=decoder))


def layout_of(module: torch.nn.Module, traits: Traits, *, page_tokens: int = 16, quantised: bool = False) -> Layout:
    """What the model keeps of a session.

    Args:
        module: on its device, in eval mode.
        traits: of it.
        page_tokens: tokens of the largest group that a page holds.
        quantised: keep keys and values as int8 with a scale for each token and head.

    Raises:
        ModelFileError: a layer keeps something that has no place in pages.
    """
    cache = new_cache(module, traits)
    device = next(module.parameters()).device
    ids = torch.zeros((1, 2), dtype=torch.long, device=device)
    words: dict[str, Any] = {traits.cache_word: cache, "use_cache": True}
    words |= {"input_ids": ids, "decoder_input_ids": ids} if traits.encodes else {"input_ids": ids}
    with torch.no_grad():
        module(**words)
    own = cache.self_attention_cache if traits.encodes else cache
    found = _Found(quantised)
    for place, layer in enumerate(own.layers):
        found.add(place, layer)
    if traits.encodes:
        for place, layer in enumerate(cache.cross_attention_cache.layers):
            found.rows(place, layer, Kept.ENCODED, 0)
    return found.layout(page_tokens, len(own.layers))


class _Found:
    """Layers as they come, sorted into groups and states."""

    def __init__(self, quantised: bool) -> None:
        self._quantised = quantised
        self._segments: dict[tuple[Kept, int], list[Segment]] = {}
        self._states: list[State] = []
        self._dtype = torch.float32

    def add(self, place: int, layer: Any) -> None:
        # Exactly these: a class that derives from one of them keeps something more.
        kinds: dict[str, Callable[[], None]] = {
            "DynamicLayer": lambda: self.rows(place, layer, Kept.ALL, 0),
            "DynamicSlidingWindowLayer": lambda: self.rows(place, layer, Kept.WINDOW, layer.sliding_window),
            "LinearAttentionLayer": lambda: self.states(place, layer),
            "DummyLayer": lambda: None,
        }
        kind = type(layer)
        if kind.__name__ not in kinds or kind is not getattr(library(), kind.__name__):
            known = ", ".join(kinds)
            raise ModelFileError(
                f"layer {place} keeps a {kind.__name__}, which sessions cannot page yet (they can: {known})"
            )
        kinds[kind.__name__]()

    def rows(self, place: int, layer: Any, kept: Kept, window: int) -> None:
        self._dtype = layer.keys.dtype
        for values, tensor in ((False, layer.keys), (True, layer.values)):
            segment = Segment(place, values, tensor.shape[1], tensor.shape[3])
            self._segments.setdefault((kept, window), []).append(segment)

    def states(self, place: int, layer: Any) -> None:
        for recurrent, tensors in ((False, layer.conv_states), (True, layer.recurrent_states)):
            for number, tensor in tensors.items():
                if tensor is not None:
                    offset = max((one.offset + one.nbytes for one in self._states), default=0)
                    offset = -(-offset // 16) * 16
                    shape = tuple(tensor.shape[1:])
                    self._states.append(State(place, recurrent, number, shape, tensor.dtype, offset))

    def layout(self, page_tokens: int, layers: int) -> Layout:
        groups = []
        for (kept, window), segments in self._segments.items():
            heads = [(one.heads, one.width) for one in segments]
            sizes = [h * w + 4 * h if self._quantised else h * w * self._dtype.itemsize for h, w in heads]
            row = -(-max(sizes) // 8) * 8
            groups.append(Group(kept, window, tuple(segments), row, self._quantised))
        state_bytes = max((one.offset + one.nbytes for one in self._states), default=0)
        size = page_size(groups, state_bytes, page_tokens)
        return Layout(tuple(groups), tuple(self._states), self._dtype, size, layers)
