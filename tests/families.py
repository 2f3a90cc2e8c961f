"""A zoo of model families with tiny random weights: nothing is downloaded, everything runs in eager in well under 1 s.

Every family gives named cases: how a module is called, and so which phase its work is. Token counts, batch sizes and
widths are all different, so that no two sizes are equal by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

BATCH, TOKENS, CACHE, VOCAB = 2, 7, 24, 96

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

#: Families whose graph cannot be captured even with ``backend="aot_eager"``, with the reason.
EXCLUDED: dict[str, str] = {}


@dataclass(frozen=True)
class Case:
    """One way of calling one model.

    Attributes:
        name: unique, e.g. ``"llama/decode-static"``.
        family: the model family.
        phase: expected phase of the graph: ``prefill``, ``decode``, ``encode`` or ``forward``.
        modality: what an encoder reads: ``text``, ``vision``, ``audio``; None for decoders.
        make: a fresh module (or function), its positional and its keyword arguments.
        contains: other phases that must occur in the graph (an encoder and cross-attention beside a decoder).
        core: whether the default test run includes it; ``python -m tests.phase_table`` runs all.
    """

    name: str
    family: str
    phase: str
    modality: str | None
    make: Callable[[], Call]
    contains: tuple[str, ...] = ()
    core: bool = True


def loss_of(output: Any) -> torch.Tensor:
    """A smooth scalar of a model's main result, for training steps."""
    for name in ("logits", "last_hidden_state", "image_embeds"):
        value = getattr(output, name, None)
        if isinstance(value, torch.Tensor):
            return value.float().pow(2).mean()
    value = output[0] if isinstance(output, (tuple, list)) else output
    assert isinstance(value, torch.Tensor)
    return value.float().pow(2).mean()


def ids(tokens: int = TOKENS, batch: int = BATCH) -> torch.Tensor:
    """Token ids [batch, tokens], none of them a usual padding id."""
    return torch.randint(5, VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(tokens))


def noise(*shape: int) -> torch.Tensor:
    """Standard normal numbers of that shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def build(model: str, config: str, values: Mapping[str, Any], attention: str | None = None) -> Any:
    """A seeded model in eval mode from the names of its class and of its config's class."""
    torch.manual_seed(0)
    made = getattr(transformers, config)(**values)
    if attention is not None:
        made._attn_implementation = attention
    return getattr(transformers, model)(made).eval()


# -- decoders -----------------------------------------------------------------------------------------------------

WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON = {**WIDE, "vocab_size": VOCAB, "max_position_embeddings": 128, "pad_token_id": 0}
LLAMA = {**COMMON, "num_key_value_heads": 2}
GPT = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
HEADS_OF_8 = {**LLAMA, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

DECODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**LLAMA, "sliding_window": 5}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", LLAMA),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", HEADS_OF_8),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", HEADS_OF_8),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**HEADS_OF_8, "sliding_window": 16}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**HEADS_OF_8, "sliding_window": 16}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 128,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", COMMON),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", {**GPT, "rotary_dim": 4}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", GPT),
    "opt": ("OPTForCausalLM", "OPTConfig", {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", COMMON),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", LLAMA),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", LLAMA),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", LLAMA),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", LLAMA),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", LLAMA),
    "cohere": ("CohereForCausalLM", "CohereConfig", LLAMA),
    "granite": ("GraniteForCausalLM", "GraniteConfig", LLAMA),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**LLAMA, "num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {**LLAMA, **EXPERTS, "shared_expert_intermediate_size": 24},
    ),
    "persimmon": ("PersimmonForCausalLM", "PersimmonConfig", COMMON),
    "codegen": ("CodeGenForCausalLM", "CodeGenConfig", {**GPT, "rotary_dim": 4}),
    "xglm": (
        "XGLMForCausalLM",
        "XGLMConfig",
        {"vocab_size": VOCAB, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    ),
    "biogpt": ("BioGptForCausalLM", "BioGptConfig", COMMON),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    ),
}

#: Decoders called with eager attention (matmul, mask, softmax, matmul), to see the decomposed form as well.
EAGER = ("llama", "gpt2", "falcon", "gemma3", "gpt_bigcode")


def decoder_cases(family: str) -> list[Case]:
    """Prefill without a cache, into a growing and into a fixed cache; decode from either."""
    model, config, values = DECODERS[family]

    def module(attention: str | None = None) -> Any:
        return build(model, config, values, attention)

    def plain() -> Call:
        return module(), (ids(),), {"use_cache": False}

    def eager() -> Call:
        return module("eager"), (ids(),), {"use_cache": False}

    def growing(tokens: int, past: int, attention: str | None = None) -> Call:
        made = module(attention)
        return made, (ids(tokens),), {"past_key_values": _filled(made, past, None), "use_cache": True}

    def fixed(tokens: int, past: int, attention: str | None = None) -> Call:
        made = module(attention)
        cache = _filled(made, past, transformers.StaticCache(made.config, max_cache_len=CACHE))
        return made, (ids(tokens),), {"past_key_values": cache, "use_cache": True}

    def case(name: str, phase: str, make: Callable[[], Call], core: bool = True) -> Case:
        return Case(f"{family}/{name}", family, phase, None, make, core=core)

    turn = list(DECODERS).index(family)
    if family == "mamba":
        return [case("prefill", "prefill", plain), *_mamba_cases(case, module)]
    cases = [
        case("prefill", "prefill", plain),
        case("prefill-growing", "prefill", lambda: growing(TOKENS, 0), turn % 16 == 1),
        case("prefill-fixed", "prefill", lambda: fixed(TOKENS, 0), turn % 16 == 2),
        case("prefill-chunk", "prefill", lambda: growing(TOKENS, 10), turn % 16 == 3),
        case("decode-growing", "decode", lambda: growing(1, 10), turn % 2 == 0),
        case("decode-fixed", "decode", lambda: fixed(1, 10), turn % 2 == 1),
    ]
    if family in EAGER:
        cases += [
            case("eager-prefill", "prefill", eager, family in ("llama", "falcon")),
            case("eager-prefill-fixed", "prefill", lambda: fixed(TOKENS, 0, "eager"), False),
            case("eager-decode-growing", "decode", lambda: growing(1, 10, "eager"), family == "gpt_bigcode"),
            case("eager-decode-fixed", "decode", lambda: fixed(1, 10, "eager"), family == "llama"),
        ]
    return cases


def _mamba_cases(case: Callable[..., Case], module: Callable[[], Any]) -> list[Case]:
    def step() -> Call:
        made = module()
        with torch.no_grad():
            state = made(ids(10), use_cache=True).cache_params
        return made, (ids(1),), {"cache_params": state, "use_cache": True}

    return [case("decode", "decode", step)]


def _filled(module: Any, tokens: int, cache: Any) -> Any:
    """A cache that holds ``tokens`` positions; a growing one if none is given."""
    if tokens == 0:
        return cache if cache is not None else transformers.DynamicCache(config=module.config)
    with torch.no_grad():
        return module(ids(tokens), past_key_values=cache, use_cache=True).past_key_values


# -- encoders -----------------------------------------------------------------------------------------------------

TEXT_ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", "BertConfig", COMMON),
    "roberta": ("RobertaModel", "RobertaConfig", COMMON),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": VOCAB, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "electra": ("ElectraModel", "ElectraConfig", {**COMMON, "embedding_size": 16}),
    "albert": ("AlbertModel", "AlbertConfig", {**COMMON, "embedding_size": 16}),
    "deberta": ("DebertaModel", "DebertaConfig", COMMON),
    "deberta_v2": (
        "DebertaV2Model",
        "DebertaV2Config",
        {**COMMON, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    ),
    "mpnet": ("MPNetModel", "MPNetConfig", COMMON),
    "modernbert": ("ModernBertModel", "ModernBertConfig", {**LLAMA, "local_attention": 4}),
    "fnet": ("FNetModel", "FNetConfig", COMMON),
    "xlnet": (
        "XLNetModel",
        "XLNetConfig",
        {"vocab_size": VOCAB, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    ),
    "clip_text": ("CLIPTextModel", "CLIPTextConfig", {**COMMON, "eos_token_id": 2}),
    "siglip_text": ("SiglipTextModel", "SiglipTextConfig", COMMON),
}

IMAGE = {**WIDE, "image_size": 16, "patch_size": 4}
STAGES = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 2}
CONV_STAGES = {"hidden_sizes": [16, 32], "depths": [2, 1], "num_stages": 2}

VISION: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "deit": ("DeiTModel", "DeiTConfig", IMAGE),
    "dinov2": ("Dinov2Model", "Dinov2Config", {**IMAGE, "mlp_ratio": 2}),
    "beit": ("BeitModel", "BeitConfig", IMAGE),
    "swin": ("SwinModel", "SwinConfig", STAGES),
    "swinv2": ("Swinv2Model", "Swinv2Config", STAGES),
    "convnext": ("ConvNextModel", "ConvNextConfig", CONV_STAGES),
    "resnet": ("ResNetModel", "ResNetConfig", {**CONV_STAGES, "embedding_size": 8, "layer_type": "basic"}),
    "segformer": ("SegformerModel", "SegformerConfig", {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}),
    "clip_vision": ("CLIPVisionModel", "CLIPVisionConfig", IMAGE),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", IMAGE),
}

SPEECH = {
    **WIDE,
    "vocab_size": VOCAB,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}

WAVEFORM: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2Config", SPEECH),
    "hubert": ("HubertModel", "HubertConfig", SPEECH),
    "wavlm": ("WavLMModel", "WavLMConfig", SPEECH),
}


def encoder_cases() -> list[Case]:
    """Text, vision and audio encoders, each called once; some texts also with padding and with eager attention."""
    cases = [_encoder(family, "text", entry, lambda: (ids(),)) for family, entry in TEXT_ENCODERS.items()]
    cases += [_encoder(family, "vision", entry, _image(entry)) for family, entry in VISION.items()]
    cases += [_encoder(family, "audio", entry, lambda: (noise(BATCH, 400),)) for family, entry in WAVEFORM.items()]
    cases.append(_encoder("bert", "text", TEXT_ENCODERS["bert"], lambda: (ids(), _padding()), name="padded"))
    for family, group in (("bert", TEXT_ENCODERS), ("vit", VISION)):
        data = (lambda: (ids(),)) if group is TEXT_ENCODERS else _image(VISION["vit"])
        cases.append(_encoder(family, "vision" if group is VISION else "text", group[family], data, "eager", "eager"))
    spectrogram = {
        **WIDE,
        "patch_size": 4,
        "frequency_stride": 4,
        "time_stride": 4,
        "max_length": 24,
        "num_mel_bins": 16,
    }
    ast = ("ASTModel", "ASTConfig", spectrogram)
    cases.append(_encoder("ast", "audio", ast, lambda: (noise(BATCH, 24, 16),)))
    cases.append(Case("whisper_encoder/encode", "whisper_encoder", "encode", "audio", _whisper_encoder))
    cases.append(Case("clip/encode", "clip", "encode", None, _clip))
    return cases


def _encoder(
    family: str,
    modality: str,
    entry: tuple[str, str, dict[str, Any]],
    data: Callable[[], tuple[Any, ...]],
    name: str = "encode",
    attention: str | None = None,
) -> Case:
    model, config, values = entry
    return Case(
        f"{family}/{name}", family, "encode", modality, lambda: (build(model, config, values, attention), data(), {})
    )


def _image(entry: tuple[str, str, dict[str, Any]]) -> Callable[[], tuple[Any, ...]]:
    size = entry[2].get("image_size", 32)
    return lambda: (noise(BATCH, 3, size, size),)


def _padding() -> torch.Tensor:
    mask = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    mask[0, -2:] = 0
    return mask


def _whisper_encoder() -> Call:
    module = build("WhisperModel", "WhisperConfig", SEQ2SEQ["whisper"][2]).get_encoder()
    return module, (noise(BATCH, 8, 20),), {}


def _clip() -> Call:
    config = transformers.CLIPConfig(text_config={**COMMON, "eos_token_id": 2}, vision_config=IMAGE, projection_dim=16)
    torch.manual_seed(0)
    module = transformers.CLIPModel(config).eval()
    return module, (), {"input_ids": ids(), "pixel_values": noise(3, 3, 16, 16)}


# -- encoder-decoders ---------------------------------------------------------------------------------------------

PAIR = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
T5 = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}

SEQ2SEQ: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "bart": ("BartForConditionalGeneration", "BartConfig", PAIR),
    "marian": ("MarianMTModel", "MarianConfig", PAIR),
    "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", PAIR),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", PAIR),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {**PAIR, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 32},
    ),
}


def seq2seq_cases(family: str) -> list[Case]:
    """The whole model on two sequences, the encoder alone, and a decode step from a filled cache."""
    model, config, values = SEQ2SEQ[family]
    sound = family == "whisper"

    def source() -> dict[str, torch.Tensor]:
        return {"input_features": noise(BATCH, 8, 20)} if sound else {"input_ids": ids(11)}

    def whole(attention: str | None = None) -> Call:
        made = build(model, config, values, attention)
        return made, (), {**source(), "decoder_input_ids": ids(), "use_cache": False}

    def encode() -> Call:
        return build(model, config, values).get_encoder(), (), source()

    def step(tokens: int, past: int) -> Call:
        made = build(model, config, values)
        with torch.no_grad():
            states = made.get_encoder()(**source())
            cache = None
            if past:
                filled = made(encoder_outputs=states, decoder_input_ids=ids(past), use_cache=True)
                cache = filled.past_key_values
        given = {"encoder_outputs": states, "decoder_input_ids": ids(tokens), "past_key_values": cache}
        return made, (), {**given, "use_cache": True}

    modality = "audio" if sound else "text"
    pair = ("encode", "cross")
    return [
        Case(f"{family}/whole", family, "prefill", None, whole, pair, core=family in ("t5", "bart", "whisper")),
        Case(f"{family}/whole-eager", family, "prefill", None, lambda: whole("eager"), pair, core=family == "bart"),
        Case(f"{family}/encode", family, "encode", modality, encode, core=family == "bart"),
        Case(f"{family}/prefill", family, "prefill", None, lambda: step(TOKENS, 0), ("cross",), core=family == "mbart"),
        Case(f"{family}/decode", family, "decode", None, lambda: step(1, 5), ("cross",)),
    ]


# -- built by hand ------------------------------------------------------------------------------------------------


def hand_cases() -> list[Case]:
    """Functions and small modules with nothing in their names to go by."""
    from tests import handmade

    return [
        Case("cnn/encode", "cnn", "encode", "vision", handmade.plain_cnn),
        Case("mlp/forward", "mlp", "forward", None, handmade.plain_mlp),
        Case("functional/prefill", "functional", "prefill", None, handmade.functional_prefill),
        Case("functional/decode", "functional", "decode", None, handmade.functional_decode),
        Case("functional/decode-written", "functional", "decode", None, handmade.functional_decode_written),
        Case("functional/encode", "functional", "encode", "text", handmade.functional_encode),
        Case("functional/pair", "functional", "prefill", None, handmade.functional_pair, ("encode", "cross")),
    ]


def all_cases() -> list[Case]:
    """Every case of every family."""
    cases = [case for family in DECODERS for case in decoder_cases(family)]
    cases += encoder_cases()
    cases += [case for family in SEQ2SEQ for case in seq2seq_cases(family)]
    return cases + hand_cases()


#: Names of cases that make sense as training steps with :func:`loss_of`.
TRAINABLE = (
    "llama/prefill",
    "qwen3/prefill",
    "gemma2/prefill",
    "gpt2/prefill",
    "gpt_neox/prefill",
    "opt/prefill",
    "phi3/prefill",
    "bert/encode",
    "distilbert/encode",
    "vit/encode",
    "swin/encode",
    "resnet/encode",
    "convnext/encode",
    "t5/whole",
    "bart/whole",
    "cnn/encode",
    "functional/encode",
)


def case_named(name: str) -> Case:
    """The case of that name.

    Raises:
        KeyError: there is none.
    """
    return {case.name: case for case in all_cases()}[name]
