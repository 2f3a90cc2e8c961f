"""The models of the engines' bench: 26 architectures of Transformers with random weights, 10 to 150 million parameters.

A case is one model called in one way: ``opt/prefill``, ``opt/decode``, ``bert/encode``. Everything is seeded, so that
every process has the same weights and the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.harness.models import result

Values = Mapping[str, Any]

#: Tokens of a prompt; of the part a decoder's static cache holds already; and the cache's length.
TOKENS, PAST, CACHE = 64, 64, 128
#: Tokens of a text that an encoder reads.
TEXT = 128
QUICK_TOKENS, QUICK_PAST, QUICK_CACHE = 16, 16, 32


@dataclass(frozen=True)
class Spec:
    """One architecture.

    Attributes:
        model: name of its class in Transformers.
        config: name of its config's class.
        values: of the config.
        small: what ``--quick`` has instead.
        reads: ``text``, ``decoder`` (text, and it has decode steps), ``pair`` (encoder and decoder), ``image``,
            ``spectrogram`` or ``waveform``.
        part: a method of the model that gives the module to be called, if that is only a part of it.
    """

    model: str
    config: str
    values: Values
    small: Values
    reads: str
    part: str | None = None


def _wide(hidden: int, layers: int, heads: int, vocab: int, factor: float = 4.0, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab,
        "intermediate_size": int(factor * hidden), "max_position_embeddings": 512, "pad_token_id": 0, **more,
    }  # fmt: skip


_SMALL = _wide(64, 2, 4, 512, 2.0)
_SMALL_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_SMALL_VISION = {**{k: v for k, v in _SMALL.items() if "vocab" not in k}, "image_size": 64, "patch_size": 16}
_GPT2 = {"vocab_size": 50257, "n_embd": 512, "n_layer": 8, "n_head": 8, "n_positions": 512}
_VISION = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
_BART = {
    "vocab_size": 32000, "d_model": 512, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 8,
    "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "max_position_embeddings": 512,
}  # fmt: skip
_SMALL_BART = {
    **_BART, "vocab_size": 512, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
}  # fmt: skip
_WHISPER = {**_BART, "vocab_size": 51865, "encoder_layers": 6, "num_mel_bins": 80, "max_source_positions": 250}
_SMALL_WHISPER = {**_SMALL_BART, "vocab_size": 51865, "num_mel_bins": 80, "max_source_positions": 250}

SPECS: dict[str, Spec] = {
    "opt": Spec(
        "OPTForCausalLM", "OPTConfig", _wide(512, 8, 8, 50272, ffn_dim=2048, word_embed_proj_dim=512),
        {**_SMALL, "ffn_dim": 128, "word_embed_proj_dim": 64}, "decoder",
    ),
    "gpt2": Spec(
        "GPT2LMHeadModel", "GPT2Config", _GPT2,
        {**_GPT2, "vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4}, "decoder",
    ),
    "gpt_neox": Spec("GPTNeoXForCausalLM", "GPTNeoXConfig", _wide(512, 6, 8, 50432), _SMALL, "decoder"),
    "llama": Spec(
        "LlamaForCausalLM", "LlamaConfig", _wide(512, 8, 8, 32000, 3.0, num_key_value_heads=4), _SMALL_GROUPED,
        "decoder",
    ),
    "qwen3": Spec(
        "Qwen3ForCausalLM", "Qwen3Config",
        _wide(640, 8, 10, 151936, 3.0, num_key_value_heads=5, head_dim=64, tie_word_embeddings=True),
        {**_SMALL_GROUPED, "head_dim": 16}, "decoder",
    ),
    "mistral": Spec(
        "MistralForCausalLM", "MistralConfig", _wide(512, 8, 8, 32000, 3.0, num_key_value_heads=2, sliding_window=None),
        {**_SMALL_GROUPED, "sliding_window": None}, "decoder",
    ),
    "gemma": Spec(
        "GemmaForCausalLM", "GemmaConfig", _wide(512, 6, 4, 64000, 4.0, num_key_value_heads=1, head_dim=128),
        {**_SMALL_GROUPED, "head_dim": 16}, "decoder",
    ),
    "phi": Spec("PhiForCausalLM", "PhiConfig", _wide(512, 8, 8, 51200), _SMALL, "decoder"),
    "bloom": Spec(
        "BloomForCausalLM", "BloomConfig", {"vocab_size": 50000, "hidden_size": 512, "n_layer": 6, "n_head": 8},
        {"vocab_size": 512, "hidden_size": 64, "n_layer": 2, "n_head": 4}, "decoder",
    ),
    "falcon": Spec(
        "FalconForCausalLM", "FalconConfig",
        {"vocab_size": 50000, "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8},
        {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}, "decoder",
    ),
    "bert": Spec("BertModel", "BertConfig", _wide(768, 12, 12, 30522), _SMALL, "text"),
    "roberta": Spec("RobertaModel", "RobertaConfig", _wide(768, 6, 12, 50265), _SMALL, "text"),
    "distilbert": Spec(
        "DistilBertModel", "DistilBertConfig", {},
        {"vocab_size": 512, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}, "text",
    ),
    "electra": Spec(
        "ElectraModel", "ElectraConfig", _wide(256, 12, 4, 30522, embedding_size=128), {**_SMALL, "embedding_size": 32},
        "text",
    ),
    "deberta_v2": Spec(
        "DebertaV2Model", "DebertaV2Config",
        _wide(384, 6, 6, 64000, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=64),
        {**_SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}, "text",
    ),
    "clip_text": Spec(
        "CLIPTextModel", "CLIPTextConfig", _wide(512, 8, 8, 49408, eos_token_id=2), {**_SMALL, "eos_token_id": 2},
        "text",
    ),
    "t5": Spec(
        "T5ForConditionalGeneration", "T5Config", {"decoder_start_token_id": 0},  # the default is t5-small
        {"vocab_size": 512, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}, "pair",
    ),
    "bart": Spec("BartForConditionalGeneration", "BartConfig", _BART, _SMALL_BART, "pair"),
    "vit": Spec("ViTForImageClassification", "ViTConfig", {**_VISION, "num_labels": 1000}, _SMALL_VISION, "image"),
    "dinov2": Spec(
        "Dinov2Model", "Dinov2Config", {**_VISION, "mlp_ratio": 4, "image_size": 224, "patch_size": 14},
        {**_SMALL_VISION, "mlp_ratio": 2}, "image",
    ),
    "swin": Spec(
        "SwinModel", "SwinConfig", {"depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "embed_dim": 96},
        {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 64, "patch_size": 4},
        "image",
    ),
    "convnext": Spec(
        "ConvNextModel", "ConvNextConfig", {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]},
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}, "image",
    ),
    "resnet": Spec(
        "ResNetForImageClassification", "ResNetConfig", {"num_labels": 1000},  # the default is ResNet-50
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "num_labels": 10}, "image",
    ),
    "regnet": Spec(
        "RegNetForImageClassification", "RegNetConfig", {"num_labels": 1000},
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "groups_width": 16, "num_labels": 10},
        "image",
    ),
    "mobilenet_v2": Spec(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", {"num_labels": 1000},
        {"depth_multiplier": 0.35, "image_size": 64, "num_labels": 10}, "image",
    ),
    "clip_vision": Spec(
        "CLIPVisionModel", "CLIPVisionConfig",
        {**_VISION, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "patch_size": 16},
        _SMALL_VISION, "image",
    ),
    "whisper": Spec("WhisperModel", "WhisperConfig", _WHISPER, _SMALL_WHISPER, "spectrogram", "get_encoder"),
    "wav2vec2": Spec(
        "Wav2Vec2Model", "Wav2Vec2Config",
        {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048},
        {
            **_SMALL, "conv_dim": [32, 32], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        },
        "waveform",
    ),
}  # fmt: skip

#: Every case, model by model.
CASES = tuple(
    f"{name}/{way}"
    for name, spec in SPECS.items()
    for way in (("prefill", "decode") if spec.reads == "decoder" else ("encode",))
)
QUICK_CASES = ("gpt2/prefill",)


@dataclass(frozen=True)
class Workload:
    """A model and how it is called.

    Attributes:
        module: in eval mode; called with ``inputs`` by position.
        inputs: of the first and of all timed calls.
        others: of the same form, for answers.
        reset: brings the module's state back to where a call begins; not part of a call's time.
        written: the module's state after a call: part of its answer.
        functional: the same without state, as exporters want it; its first results are the module's.
        state: tensors that ``functional`` takes after the inputs, and gives back after its first result.
    """

    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    others: tuple[torch.Tensor, ...]
    reset: Callable[[], None]
    written: Callable[[], tuple[torch.Tensor, ...]]
    functional: torch.nn.Module
    state: tuple[torch.Tensor, ...]


def _nothing() -> None:
    """There is no state to reset."""


def _none_written() -> tuple[torch.Tensor, ...]:
    """There is no state to show."""
    return ()


def workload(case: str, batch: int, quick: bool = False) -> Workload:
    """Make a case's model, inputs and state.

    Args:
        case: one of ``CASES``.
        batch: how many texts or images a call has.
        quick: a model of two narrow layers.

    Raises:
        ValueError: no such case.
    """
    name, _, way = case.partition("/")
    if case not in CASES:
        raise ValueError(f"no case {case!r}; known: {', '.join(CASES)}")
    spec = SPECS[name]
    model = _model(spec, quick)
    if way == "decode":
        return _decode_step(model, batch, quick)
    generator = torch.Generator().manual_seed(1)
    first, second = (_inputs(spec, model.config, batch, quick, generator) for _ in range(2))
    called = model if spec.part is None else getattr(model, spec.part)()
    module = Plain(called, spec.reads).eval()
    return Workload(module, first, second, _nothing, _none_written, module, ())


def _model(spec: Spec, quick: bool) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, spec.config)(**(spec.small if quick else spec.values))
    return getattr(transformers, spec.model)(config).eval()


def parameters(module: torch.nn.Module) -> int:
    """How many numbers a module's parameters hold."""
    return sum(one.numel() for one in module.parameters())


class Plain(torch.nn.Module):
    """A model called with tensors by position, which answers with one tensor, and keeps nothing from call to call."""

    def __init__(self, model: Any, reads: str) -> None:
        super().__init__()
        self.model = model
        self.keywords = {"use_cache": False} if reads in ("decoder", "pair") else {}
        self.second = "decoder_input_ids" if reads == "pair" else "attention_mask"

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """The logits, or the last hidden state."""
        more = {} if second is None else {self.second: second}
        return result(self.model(first, **more, **self.keywords))


def _inputs(spec: Spec, config: Any, batch: int, quick: bool, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    tokens = QUICK_TOKENS if quick else TOKENS if spec.reads == "decoder" else TEXT
    if spec.reads == "image":
        size = getattr(config, "image_size", 224 if not quick else 64)
        return (noise(3, size, size),)
    if spec.reads == "spectrogram":
        return (noise(config.num_mel_bins, 2 * config.max_source_positions),)
    if spec.reads == "waveform":
        return (noise(800 if quick else 16000),)
    ids = _ids(config, (batch, tokens), generator)
    if spec.reads == "pair":
        return ids, _ids(config, (batch, tokens // 4), generator)
    return (ids, torch.ones_like(ids)) if spec.reads == "text" else (ids,)


def _ids(config: Any, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(5, config.vocab_size, tuple(shape), generator=generator)


# -- decode steps ---------------------------------------------------------------------------------------------------


def _step(model: Any, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    """The next token's logits; the cache counts for itself how far it is filled."""
    more = {}
    if model.config.model_type == "opt":  # else it makes both with sizes that depend on numbers in the cache
        more["position_ids"] = cache.get_seq_length().expand(ids.shape)
        more["attention_mask"] = torch.ones(ids.shape[0], cache.layers[0].max_cache_len, dtype=torch.int64)
    return result(model(ids, past_key_values=cache, use_cache=True, **more))


class DecodeStep(torch.nn.Module):
    """One step of a decoder that writes its static cache."""

    def __init__(self, model: Any, cache: Any) -> None:
        super().__init__()
        self.model, self.cache = model, cache

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The next token's logits."""
        return _step(self.model, ids, self.cache)


class FunctionalStep(torch.nn.Module):
    """The same step with the cache as arguments and results: how a decoder is exported."""

    def __init__(self, model: Any, length: int) -> None:
        super().__init__()
        self.model, self.length = model, length

    def forward(self, ids: torch.Tensor, filled: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The next token's logits, then how far the cache is filled, then its keys and values layer by layer."""
        from transformers import StaticCache

        cache = StaticCache(config=self.model.config, max_cache_len=self.length)
        for layer, keys, values in zip(cache.layers, tensors[::2], tensors[1::2], strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values, layer.cumulative_length = keys.clone(), values.clone(), filled.clone()
        logits = _step(self.model, ids, cache)
        return (logits, cache.layers[0].cumulative_length, *_tensors(cache))


def _tensors(cache: Any) -> tuple[torch.Tensor, ...]:
    return tuple(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


def _decode_step(model: Any, batch: int, quick: bool) -> Workload:
    from transformers import StaticCache

    past, length = (QUICK_PAST, QUICK_CACHE) if quick else (PAST, CACHE)
    generator = torch.Generator().manual_seed(2)
    prompt = _ids(model.config, (batch, past), generator)
    first, second = (_ids(model.config, (batch, 1), generator) for _ in range(2))
    cache = StaticCache(config=model.config, max_cache_len=length)
    with torch.no_grad():
        model(prompt, past_key_values=cache, use_cache=True)
    begun = tuple(tensor.clone() for tensor in _tensors(cache))

    def reset() -> None:
        for layer in cache.layers:
            layer.cumulative_length.fill_(past)

    return Workload(
        DecodeStep(model, cache).eval(), (first,), (second,), reset, lambda: _tensors(cache),
        FunctionalStep(model, length).eval(), (torch.tensor(past), *begun),
    )  # fmt: skip


def doubled(work: Workload) -> Workload:
    """The same in float64, state included; the modules are changed in place."""
    module = work.module.double()
    work.functional.double()
    if isinstance(module, DecodeStep):
        for layer in module.cache.layers:
            layer.keys, layer.values = layer.keys.double(), layer.values.double()

    def wide(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors)

    return replace(work, inputs=wide(work.inputs), others=wide(work.others), state=wide(work.state))
