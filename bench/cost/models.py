"""The graphs of bench/cost/accuracy.py and bench/cost/regret.py: Transformers families with random weights.

A graph is one family called in one way: ``llama/decode b1 t256``. Families are split in two. ``DEV`` may be looked at
while a cost model is being made. ``HELD_OUT`` may not: no time of theirs takes part in making or fitting a model.
Models have 2 to 4 layers, 256 to 1024 wide, so that a graph is compiled in seconds and runs in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bench.harness.models import result

Values = Mapping[str, Any]

#: A decode step's static cache has this many places more than are filled.
SPARE = 32


@dataclass(frozen=True)
class Call:
    """One way of calling a model.

    Attributes:
        way: ``prefill``, ``decode`` or ``encode``.
        batch: texts, images or sounds.
        size: tokens of the text; for decode, tokens that the cache holds already; for images, pixels a side; for
            sounds, samples or frames.
    """

    way: str
    batch: int
    size: int

    def __str__(self) -> str:
        return f"{self.way} b{self.batch} t{self.size}"


@dataclass(frozen=True)
class Family:
    """One architecture and how it is called.

    Attributes:
        model: name of its class in Transformers.
        config: name of its config's class.
        values: of the config.
        reads: ``decoder``, ``text``, ``pair``, ``image``, ``spectrogram``, ``frames`` or ``waveform``.
        calls: the graphs.
        part: a method of the model that gives the module to be called, if that is only a part of it.
    """

    model: str
    config: str
    values: Values
    reads: str
    calls: tuple[Call, ...]
    part: str | None = None


def _wide(hidden: int, layers: int, heads: int, vocab: int = 8192, factor: float = 4.0, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab,
        "intermediate_size": int(factor * hidden), "max_position_embeddings": 1024, "pad_token_id": 0, **more,
    }  # fmt: skip


def _vision(hidden: int, layers: int, heads: int, size: int = 224, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "image_size": size,
        "intermediate_size": 4 * hidden, "patch_size": 16, **more,
    }  # fmt: skip


def _pair(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 8192, "d_model": width, "encoder_layers": layers, "decoder_layers": layers, "pad_token_id": 0,
        "encoder_attention_heads": heads, "decoder_attention_heads": heads, "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width, "max_position_embeddings": 512, "decoder_start_token_id": 1, **more,
    }  # fmt: skip


def _gpt(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    names = {"vocab_size": 8192, "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 1024}
    return {**names, **more}


def _calls(text: str) -> tuple[Call, ...]:
    """``"prefill 1 128, decode 1 64"`` as calls."""
    parts = (one.split() for one in text.split(","))
    return tuple(Call(way, int(batch), int(size)) for way, batch, size in parts)


def _decoder(name: str, values: Values, calls: str) -> Family:
    return Family(f"{name}ForCausalLM", f"{name}Config", values, "decoder", _calls(calls))


def _model(name: str, values: Values, reads: str, calls: str) -> Family:
    return Family(f"{name}Model", f"{name}Config", values, reads, _calls(calls))


_SPEECH = {
    "hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 1536,
    "conv_dim": [256, 256, 256, 256], "conv_kernel": [10, 3, 3, 3], "conv_stride": [5, 4, 4, 2],
    "num_feat_extract_layers": 4, "num_conv_pos_embeddings": 64, "num_conv_pos_embedding_groups": 16,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 4}

DEV: dict[str, Family] = {
    "gpt2": Family(
        "GPT2LMHeadModel", "GPT2Config", _gpt(512, 3, 8), "decoder",
        _calls("prefill 1 64, prefill 8 128, decode 1 128, decode 8 32"),
    ),
    "opt": _decoder(
        "OPT", _wide(768, 2, 12, ffn_dim=3072, word_embed_proj_dim=768), "prefill 1 32, prefill 2 256, decode 2 64"
    ),
    "llama": _decoder(
        "Llama", _wide(1024, 2, 16, 16000, 2.5, **_GROUPED), "prefill 1 128, prefill 1 512, decode 1 256, decode 8 256"
    ),
    "gpt_neox": _decoder("GPTNeoX", _wide(256, 4, 4, 16000), "prefill 2 64, decode 1 480"),
    "qwen2": _decoder("Qwen2", _wide(384, 3, 6, 32000, 3.0, num_key_value_heads=2), "prefill 8 32, decode 2 128"),
    "bert": _model("Bert", _wide(768, 2, 12), "text", "encode 1 128, encode 8 64, encode 1 512"),
    "distilbert": _model(
        "DistilBert", {"vocab_size": 8192, "dim": 384, "n_layers": 3, "n_heads": 6, "hidden_dim": 1536}, "text",
        "encode 1 32, encode 2 256",
    ),
    "clip_text": _model("CLIPText", _wide(512, 3, 8, eos_token_id=2), "text", "encode 2 77"),
    "t5": Family(
        "T5ForConditionalGeneration", "T5Config",
        {
            "vocab_size": 8192, "d_model": 512, "d_ff": 2048, "num_layers": 2, "num_heads": 8,
            "decoder_start_token_id": 0,
        },
        "pair", _calls("encode 1 128, encode 8 64"),
    ),
    "vit": Family(
        "ViTForImageClassification", "ViTConfig", _vision(384, 3, 6), "image", _calls("encode 1 224, encode 8 224")
    ),
    "resnet": Family(
        "ResNetForImageClassification", "ResNetConfig",
        {"embedding_size": 32, "hidden_sizes": [64, 128, 256, 512], "depths": [1, 1, 2, 1], "layer_type": "basic"},
        "image", _calls("encode 1 224, encode 8 96"),
    ),
    "wav2vec2": _model("Wav2Vec2", _SPEECH, "waveform", "encode 1 16000, encode 2 8000"),
}  # fmt: skip

HELD_OUT: dict[str, Family] = {
    "mistral": _decoder(
        "Mistral", _wide(768, 3, 12, 16000, 3.0, num_key_value_heads=3, sliding_window=None),
        "prefill 1 64, prefill 2 384, decode 1 128, decode 8 64",
    ),
    "qwen3": _decoder(
        "Qwen3", _wide(512, 3, 8, 32000, 3.0, num_key_value_heads=4, head_dim=64, tie_word_embeddings=True),
        "prefill 1 256, prefill 8 64, decode 1 384, decode 4 96",
    ),
    "gemma": _decoder(
        "Gemma", _wide(512, 2, 4, 24000, num_key_value_heads=1, head_dim=128), "prefill 1 48, decode 2 192"
    ),
    "phi": _decoder("Phi", _wide(640, 2, 10, 12000), "prefill 1 192, prefill 4 64, decode 1 64"),
    "bloom": Family(
        "BloomForCausalLM", "BloomConfig", {"vocab_size": 12000, "hidden_size": 512, "n_layer": 3, "n_head": 8},
        "decoder", _calls("prefill 1 96, prefill 4 128, decode 1 160"),
    ),
    "falcon": Family(
        "FalconForCausalLM", "FalconConfig",
        {"vocab_size": 12000, "hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12}, "decoder",
        _calls("prefill 1 128, decode 1 320, decode 8 96"),
    ),
    "gpt_neo": Family(
        "GPTNeoForCausalLM", "GPTNeoConfig",
        {
            "vocab_size": 8192, "hidden_size": 512, "num_layers": 2, "num_heads": 8, "window_size": 256,
            "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 1024,
        },
        "decoder", _calls("prefill 2 96, decode 1 96"),
    ),
    "gptj": Family(
        "GPTJForCausalLM", "GPTJConfig", _gpt(768, 2, 12, rotary_dim=32), "decoder",
        _calls("prefill 1 160, decode 2 160"),
    ),
    "stablelm": _decoder("StableLm", _wide(384, 4, 6, 16000, 2.7, num_key_value_heads=6), "prefill 1 320, decode 1 80"),
    "starcoder2": _decoder(
        "Starcoder2", _wide(768, 2, 12, 16000, num_key_value_heads=2), "prefill 1 80, decode 1 200, decode 4 200"
    ),
    "olmo2": _decoder("Olmo2", _wide(512, 3, 8, 16000, 2.75), "prefill 2 128, decode 1 256"),
    "granite": _decoder(
        "Granite", _wide(1024, 2, 16, 12000, 2.0, num_key_value_heads=8), "prefill 1 112, decode 2 256"
    ),
    "cohere": _decoder("Cohere", _wide(640, 2, 10, 20000, 2.75, num_key_value_heads=5), "prefill 1 40, decode 1 112"),
    "roberta": _model("Roberta", _wide(768, 2, 12, 12000), "text", "encode 1 96, encode 4 128"),
    "electra": _model("Electra", _wide(256, 4, 4, 12000, embedding_size=128), "text", "encode 1 64, encode 8 192"),
    "albert": _model(
        "Albert", _wide(768, 3, 12, 12000, embedding_size=128), "text", "encode 1 160, encode 4 48"
    ),
    "deberta_v2": _model(
        "DebertaV2",
        _wide(384, 2, 6, 12000, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=64),
        "text", "encode 1 128, encode 2 64",
    ),
    "mpnet": _model("MPNet", _wide(512, 3, 8, 12000), "text", "encode 1 192, encode 8 32"),
    "modernbert": _model("ModernBert", _wide(512, 3, 8, 12000, 2.0, local_attention=64), "text", "encode 1 256"),
    "siglip_text": _model("SiglipText", _wide(640, 2, 10, 12000), "text", "encode 4 64"),
    "dinov2": _model("Dinov2", _vision(384, 3, 6, patch_size=14, mlp_ratio=4), "image", "encode 1 224, encode 2 224"),
    "deit": _model("DeiT", _vision(512, 2, 8, 192), "image", "encode 1 192, encode 4 192"),
    "beit": _model("Beit", _vision(384, 2, 6, 160), "image", "encode 2 160"),
    "clip_vision": _model("CLIPVision", _vision(512, 3, 8), "image", "encode 1 224, encode 4 224"),
    "siglip": _model("SiglipVision", _vision(768, 2, 12, 256), "image", "encode 1 256"),
    "swin": _model(
        "Swin", {"embed_dim": 96, "depths": [1, 1, 2], "num_heads": [3, 6, 12], "image_size": 224}, "image",
        "encode 1 224, encode 4 224",
    ),
    "convnext": _model(
        "ConvNext", {"hidden_sizes": [64, 128, 256], "depths": [1, 1, 2], "num_stages": 3}, "image",
        "encode 1 224, encode 4 128",
    ),
    "segformer": _model(
        "Segformer",
        {"hidden_sizes": [32, 64, 160, 256], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 8]}, "image",
        "encode 1 192",
    ),
    "regnet": _model(
        "RegNet", {"embedding_size": 32, "hidden_sizes": [64, 160, 320], "depths": [1, 2, 2], "groups_width": 32},
        "image", "encode 1 224, encode 4 160",
    ),
    "whisper": Family(
        "WhisperModel", "WhisperConfig", _pair(512, 2, 8, num_mel_bins=80, max_source_positions=300), "spectrogram",
        _calls("encode 1 600, encode 2 600"), "get_encoder",
    ),
    "hubert": _model("Hubert", {**_SPEECH, "hidden_size": 512, "num_attention_heads": 8}, "waveform", "encode 1 12000"),
    "ast": _model(
        "AST",
        {**_vision(384, 2, 6), "max_length": 256, "num_mel_bins": 128, "frequency_stride": 16, "time_stride": 16},
        "frames", "encode 1 256, encode 4 256",
    ),
    "bart": Family(
        "BartForConditionalGeneration", "BartConfig", _pair(512, 2, 8), "pair", _calls("encode 1 128, encode 4 64")
    ),
    "marian": Family("MarianMTModel", "MarianConfig", _pair(384, 2, 6), "pair", _calls("encode 1 96")),
    "pegasus": Family(
        "PegasusForConditionalGeneration", "PegasusConfig", _pair(768, 2, 12), "pair", _calls("encode 1 64")
    ),
}  # fmt: skip

FAMILIES: dict[str, Family] = {**DEV, **HELD_OUT}


def graph_names(families: Mapping[str, Family]) -> tuple[str, ...]:
    """The names of all graphs of some families: ``"llama/decode b1 t256"``; the first of each family come first."""
    longest = max(len(family.calls) for family in families.values())
    return tuple(
        f"{name}/{family.calls[turn]}"
        for turn in range(longest)
        for name, family in families.items()
        if turn < len(family.calls)
    )


def family_of(graph: str) -> str:
    """The family of a graph, by the graph's name."""
    return graph.partition("/")[0]


def call_of(graph: str) -> Call:
    """The call that a graph's name stands for.

    Raises:
        ValueError: no such graph.
    """
    family = FAMILIES.get(family_of(graph))
    found = next((one for one in family.calls if f"{family_of(graph)}/{one}" == graph), None) if family else None
    if found is None:
        raise ValueError(f"no graph {graph!r}; known: {', '.join(graph_names(FAMILIES))}")
    return found


# -- making them ---------------------------------------------------------------------------------------------------


def make_model(name: str) -> Any:
    """A family's model: seeded, in eval mode."""
    import transformers

    family = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, family.config)(**family.values)
    made = getattr(transformers, family.model)(config).eval()
    return made if family.part is None else getattr(made, family.part)()


def called(model: Any, family: Family, call: Call) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A module that does one call, and the tensors it is called with."""
    generator = torch.Generator().manual_seed(1)
    config = model.config
    if call.way == "decode":
        return _decode_step(model, call, generator)
    if family.reads == "image":
        return _Plain(model), (torch.randn(call.batch, 3, call.size, call.size, generator=generator),)
    if family.reads == "waveform":
        return _Plain(model), (torch.randn(call.batch, call.size, generator=generator),)
    if family.reads in ("spectrogram", "frames"):
        bins = config.num_mel_bins
        sides = (bins, call.size) if family.reads == "spectrogram" else (call.size, bins)
        return _Plain(model), (torch.randn(call.batch, *sides, generator=generator),)
    ids = _ids(config, (call.batch, call.size), generator)
    if family.reads == "pair":
        return _Plain(model, second="decoder_input_ids", use_cache=False), (
            ids, _ids(config, (call.batch, call.size // 4), generator),
        )  # fmt: skip
    return _Plain(model, **({"use_cache": False} if family.reads == "decoder" else {})), (ids,)


def _ids(config: Any, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(5, config.vocab_size, shape, generator=generator)


class _Plain(torch.nn.Module):
    """A model called with tensors by position, which answers with one tensor, and keeps nothing from call to call."""

    def __init__(self, model: Any, second: str = "", **keywords: Any) -> None:
        super().__init__()
        self.model, self.second, self.keywords = model, second, keywords

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """The logits, or the last hidden state."""
        more = {} if second is None else {self.second: second}
        return result(self.model(first, **more, **self.keywords))


class _Step(torch.nn.Module):
    """One step of a decoder that writes its static cache."""

    def __init__(self, model: Any, cache: Any) -> None:
        super().__init__()
        self.model, self.cache = model, cache

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The next token's logits."""
        more = {}
        if self.model.config.model_type == "opt":  # else it makes both with sizes that depend on numbers in the cache
            more["position_ids"] = self.cache.get_seq_length().expand(ids.shape)
            more["attention_mask"] = torch.ones(ids.shape[0], self.cache.layers[0].max_cache_len, dtype=torch.int64)
        return result(self.model(ids, past_key_values=self.cache, use_cache=True, **more))


def _decode_step(
    model: Any, call: Call, generator: torch.Generator
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    from transformers import StaticCache

    prompt = _ids(model.config, (call.batch, call.size), generator)
    cache = StaticCache(config=model.config, max_cache_len=call.size + SPARE)
    with torch.no_grad():
        model(prompt, past_key_values=cache, use_cache=True)
    return _Step(model, cache).eval(), (_ids(model.config, (call.batch, 1), generator),)
