"""``--hf llama:num_hidden_layers=2``: a Transformers model from its configuration, without any weights."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from djinn_fx.errors import ModelFileError, SettingsError, did_you_mean
from djinn_fx.explain.finding.file import user_code
from djinn_fx.explain.finding.inputs import typed_inputs
from djinn_fx.explain.finding.model import FoundModel, Rung
from djinn_fx.explain.finding.typed import TypedInput
from djinn_fx.explain.finding.weightless import Faker, described_device, fake_mode, without_weights

#: Of the classes for one architecture, the first there is; a masked one before a causal one, since an encoder has both.
_HEADS = (
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "MASKED_LM",
    "CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "IMAGE_CLASSIFICATION",
    "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "CTC",
    "AUDIO_CLASSIFICATION",
    "TEXT_TO_SPECTROGRAM",
)
#: What holds the keys and values of earlier tokens, as releases and architectures call it.
_CACHES = ("cache", "past_key_values", "cache_params", "state")
#: Words that are no configuration's: the sizes of the call.
_BATCH, _TOKENS = "batch", "tokens"
_SAMPLES = 16_000


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What ``--hf`` asks for."""

    text: str
    name: str
    changes: dict[str, Any]
    batch: int
    tokens: int

    @property
    def shown(self) -> str:
        return f"--hf {self.text}"


def find_transformer(text: str, *, fake: bool, typed: Sequence[TypedInput] = ()) -> list[FoundModel]:
    """Build the model and inputs of its own kind.

    Args:
        text: an architecture (``llama``) or a class (``LlamaForCausalLM``), then ``:key=value,…`` of its
            configuration, and ``batch`` and ``tokens`` of the call.
        fake: weights and inputs have no values.
        typed: inputs by size and type, in the place of its own kind's.

    Returns:
        For a decoder its prefill and one step of its decode, else one call.

    Raises:
        SettingsError: it cannot be read, or Transformers is not installed.
        ModelFileError: there is no such architecture, or its configuration has no such key.
        ModelFailedError: the model cannot be made.
    """
    asked = _read(text)
    transformers = _library()
    cls, config = _class_of(transformers, asked)
    path = Path(inspect.getfile(cls))
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else None
    faker = Faker(fake_mode()) if fake else None
    torch.manual_seed(0)
    making = without_weights() if fake else contextlib.nullcontext()
    with making, described_device(), user_code(asked.shown, path, f"making {cls.__name__}"), _calm():
        model = cls._from_config(config, dtype=dtype)
    if faker is not None:
        faker.fill(model)
    mode = faker.mode if faker is not None else contextlib.nullcontext()
    with torch.no_grad(), described_device(), mode, user_code(asked.shown, path, f"calling {cls.__name__}"), _calm():
        calls = _typed(model.eval(), typed) if typed else _calls(model.eval(), asked)
    return [
        FoundModel(
            module=model,
            args=args,
            kwargs=kwargs,
            rule=f"{cls.__name__} made from its configuration; {rule}",
            made=f"{cls.__name__} made from its configuration",
            given=rule,
            attr="",
            file=asked.shown,
            path=path,
            faker=faker,
            scenario=name,
            typed=tuple(typed),
            rung=Rung.REGISTERED if fake else Rung.VALUES,
        )
        for name, args, kwargs, rule in calls
    ]


def _read(text: str) -> _Asked:
    name, _, rest = text.partition(":")
    try:
        changes = yaml.safe_load("{" + rest.replace("=", ": ") + "}")
    except yaml.YAMLError as error:
        raise SettingsError(f"--hf {text}: write it as llama:key=value,key=value") from error
    if not name or any(value is None for value in changes.values()):
        raise SettingsError(f"--hf {text}: write it as llama:key=value,key=value")
    sizes = {key: changes.pop(key, usual) for key, usual in ((_BATCH, 1), (_TOKENS, 128))}
    for key, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise SettingsError(f"--hf {text}: {key} is a number from 1")
    return _Asked(text=text, name=name, changes=changes, batch=sizes[_BATCH], tokens=sizes[_TOKENS])


def _library() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise SettingsError("--hf needs Transformers: pip install 'djinn-fx[transformers]'") from error


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Without Transformers' remarks on what is slow or will be renamed: nobody here can act on them."""
    logging = importlib.import_module("transformers.utils").logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)


def _class_of(transformers: Any, asked: _Asked) -> tuple[Any, Any]:
    """The class to build, and its configuration."""
    modeling_auto = transformers.models.auto.modeling_auto
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    if asked.name in known:
        config = _config(asked, transformers.AutoConfig.for_model, asked.name)
        tables = (getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES", {}) for head in _HEADS)
        names = [table[asked.name] for table in tables if asked.name in table]
        names += (
            [modeling_auto.MODEL_MAPPING_NAMES[asked.name]] if asked.name in modeling_auto.MODEL_MAPPING_NAMES else []
        )
        if not names:
            raise ModelFileError(f"{asked.shown}: Transformers has no model class for {asked.name}; name a class of it")
        first = names[0] if isinstance(names[0], str) else names[0][0]
        return getattr(transformers, first), config
    cls = getattr(transformers, asked.name, None)
    config_class = getattr(cls, "config_class", None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)) or config_class is None:
        classes = [name for name in dir(transformers) if "For" in name or name.endswith("Model")]
        near = did_you_mean(
            asked.name, [*known, *classes], "; name one such as llama, or a class such as LlamaForCausalLM"
        )
        raise ModelFileError(f"{asked.shown}: Transformers has no architecture or model {asked.name!r}{near}")
    return cls, _config(asked, config_class)


def _config(asked: _Asked, make: Callable[..., Any], *args: Any) -> Any:
    with user_code(asked.shown, Path(asked.shown), "making the configuration"):
        usual = make(*args)
        for key in asked.changes:
            if not hasattr(usual, key):
                names = [*usual.to_dict(), _BATCH, _TOKENS]
                raise ModelFileError(f"{asked.shown}: {type(usual).__name__} has no {key!r}{did_you_mean(key, names)}")
        return make(*args, **asked.changes) if asked.changes else usual


#: A scenario's name, its positional and keyword arguments, and what gave them.
_Call = tuple[str, tuple[Any, ...], dict[str, Any], str]


def _typed(model: Any, typed: Sequence[TypedInput]) -> list[_Call]:
    inputs = typed_inputs(model, typed)
    return [("", inputs.args, inputs.kwargs, inputs.rule)]


def _calls(model: Any, asked: _Asked) -> list[_Call]:
    """The calls that are usual for a model of its kind."""
    given = _main_input(model, asked)
    parameters = inspect.signature(model.forward).parameters
    decodes = bool(model.can_generate()) and "use_cache" in parameters
    sizes = f"{asked.batch} x {asked.tokens} tokens"
    if "decoder_input_ids" in parameters:
        given = {
            **given,
            "decoder_input_ids": torch.zeros(asked.batch, 1 if decodes else asked.tokens, dtype=torch.long),
        }
    if not decodes:
        return [("", (), given, f"inputs by its {model.main_input_name}")]
    prefill = {**given, "use_cache": True}
    filled = model(**prefill)
    name = next((one for one in _CACHES if one in filled and filled[one] is not None), None)
    if name is None:
        return [("", (), given, f"inputs by its {model.main_input_name}")]
    token = torch.zeros(asked.batch, 1, dtype=torch.long)
    step: dict[str, Any] = {"input_ids": token, name: filled[name], "use_cache": True}
    if "encoder_last_hidden_state" in filled:
        outputs = importlib.import_module("transformers.modeling_outputs")
        states = outputs.BaseModelOutput(last_hidden_state=filled["encoder_last_hidden_state"])
        step = {"encoder_outputs": states, "decoder_input_ids": token, name: filled[name], "use_cache": True}
    return [
        ("prefill", (), prefill, f"a prompt of {sizes}"),
        ("decode", (), step, f"one token after the keys and values of {sizes}"),
    ]


def _main_input(model: Any, asked: _Asked) -> dict[str, torch.Tensor]:
    """What its main input is, in the sizes of its configuration."""
    name, config = model.main_input_name, model.config
    if name == "input_ids":
        limit = _number(config, "max_position_embeddings", "n_positions")
        tokens = min(asked.tokens, limit) if limit else asked.tokens
        return {name: torch.zeros(asked.batch, tokens, dtype=torch.long)}
    if name == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else tuple(size)[:2]
        return {name: torch.randn(asked.batch, _number(vision, "num_channels") or 3, height, width)}
    if name == "input_features":
        frames = 2 * (_number(config, "max_source_positions") or 1500)
        return {name: torch.randn(asked.batch, _number(config, "num_mel_bins") or 80, frames)}
    if name == "input_values":
        return {name: torch.randn(asked.batch, _SAMPLES)}
    raise ModelFileError(
        f"{asked.shown}: its main input is {name!r}, for which no sizes are known here; "
        f"give them as --input {name}:1x16:float32"
    )


def _number(config: Any, *names: str) -> int | None:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)
