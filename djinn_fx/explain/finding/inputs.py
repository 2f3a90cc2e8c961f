"""Find example inputs for a model: in the user's file, on the model itself, or among the file's tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from djinn_fx.errors import ModelFileError, SettingsError
from djinn_fx.explain.finding.file import UserFile, user_code
from djinn_fx.explain.finding.typed import TypedInput

#: Names in the file that hold, or return, example inputs; the first that is there is used.
FILE_NAMES = (
    "example_inputs",
    "get_example_inputs",
    "get_inputs",
    "sample_inputs",
    "get_sample_inputs",
    "example_input",
    "get_example_input",
    "dummy_inputs",
    "get_dummy_inputs",
    "example_args",
    "dummy_input",
    "sample_input",
)
#: Attributes and methods of the model that hold, or return, example inputs.
MODEL_NAMES = (
    "example_input_array",
    "example_inputs",
    "get_example_inputs",
    "get_inputs",
    "sample_inputs",
    "dummy_inputs",
)
#: Last resort: module-level tensors (or containers of tensors) with these names.
TENSOR_NAMES = ("inputs", "input", "x", "X", "input_ids", "tokens", "images", "image", "batch", "data", "sample")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Arguments for one call, and the convention that gave them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rule: str


def signature_of(model: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of what is called; None if Python cannot tell."""
    try:
        return inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    except (TypeError, ValueError):
        return None


def required_parameters(signature: inspect.Signature | None) -> list[str]:
    """Names of the parameters without a default."""
    if signature is None:
        return []
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in skipped
    ]


def read_call(value: Any, signature: inspect.Signature | None) -> tuple[tuple[Any, ...], dict[str, Any]] | str:
    """Read a value as the arguments of one call; the text of the mismatch if no reading fits.

    A list or tuple is positional arguments, or ``[args, kwargs]``, or ends with a dict of keyword arguments; a
    mapping is keyword arguments; anything else is the only argument. The signature decides in doubt.
    """
    mismatch = ""
    for args, kwargs in _readings(value, signature):
        if signature is None:
            return args, kwargs
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            mismatch = mismatch or str(error)
        else:
            return args, kwargs
    return mismatch


def _readings(value: Any, signature: inspect.Signature | None) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        yield (), dict(value)
    elif isinstance(value, (list, tuple)):
        last = value[-1] if value else None
        if isinstance(last, Mapping) and _are_parameters(last, signature):
            if len(value) == 2 and isinstance(value[0], (list, tuple)):
                yield tuple(value[0]), dict(last)
            yield tuple(value[:-1]), dict(last)
        yield tuple(value), {}
    yield (value,), {}


def _are_parameters(mapping: Mapping[Any, Any], signature: inspect.Signature | None) -> bool:
    if signature is None or not all(isinstance(key, str) for key in mapping):
        return False
    parameters = signature.parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return takes_any or all(key in parameters for key in mapping)


def given_inputs(user: UserFile, model: Callable[..., Any], value: Any, rule: str) -> Inputs:
    """Inputs from a value the user meant as inputs.

    Raises:
        ModelFileError: they do not fit the model's signature.
    """
    call = read_call(value, signature_of(model))
    if isinstance(call, str):
        raise ModelFileError(f"{user.shown}: what {rule} gives does not fit {call_text(model)}: {call}")
    return Inputs(args=call[0], kwargs=call[1], rule=rule)


def typed_inputs(model: Callable[..., Any], typed: Sequence[TypedInput]) -> Inputs:
    """Inputs by size and type.

    Raises:
        SettingsError: they do not fit the model's signature.
    """
    signature = signature_of(model)
    args = tuple(one.make() for one in typed if one.name is None)
    kwargs = {one.name: one.make() for one in typed if one.name is not None}
    try:
        if signature is not None:
            signature.bind(*args, **kwargs)
    except TypeError as error:
        raise SettingsError(f"--input does not fit {call_text(model)}: {error}") from error
    return Inputs(args=args, kwargs=kwargs, rule="--input")


def find_inputs(user: UserFile, model: Callable[..., Any]) -> Inputs:
    """Inputs for the model, by the conventions in order.

    Raises:
        ModelFileError: there are none, or they do not fit; the message says what to add to the file.
    """
    signature = signature_of(model)
    inputs = _named_in_file(user, model) or _on_model(user, model)
    if inputs is None and signature is not None and not signature.parameters:
        inputs = Inputs(args=(), kwargs={}, rule="nothing: it takes no arguments")
    inputs = inputs or _tensors_in_file(user, model, signature)
    if inputs is None:
        raise ModelFileError(_how_to_add(user, model, signature))
    return inputs


def _named_in_file(user: UserFile, model: Callable[..., Any]) -> Inputs | None:
    for name in FILE_NAMES:
        value = user.names.get(name)
        if value is None or value is model:
            continue
        if callable(value) and not isinstance(value, torch.Tensor):
            if required_parameters(signature_of(value)):
                continue
            return given_inputs(user, model, call_user(user, value, name), f"{name}()")
        return given_inputs(user, model, value, name)
    return None


def _on_model(user: UserFile, model: Callable[..., Any]) -> Inputs | None:
    if not isinstance(model, nn.Module):
        return None
    signature = signature_of(model)
    sized = _image_of_config(model)
    if sized is not None:
        return sized
    for name in MODEL_NAMES:
        with user_code(user.shown, user.path, f"reading {type(model).__name__}.{name}"):
            value = getattr(model, name, None)
        if value is None or isinstance(value, nn.Module):
            continue
        rule = f"{type(model).__name__}.{name}"
        if callable(value) and not isinstance(value, torch.Tensor):
            if required_parameters(signature_of(value)):
                continue
            value, rule = call_user(user, value, rule), f"{rule}()"
        call = read_call(value, signature)
        if not isinstance(call, str):
            return Inputs(args=call[0], kwargs=call[1], rule=rule)
    return None


def _image_of_config(model: nn.Module) -> Inputs | None:
    """Transformers and timm image models: their ``dummy_inputs`` are for text, but the config has the sizes."""
    size: tuple[int, ...] | None = None
    name = getattr(model, "main_input_name", None)
    config = getattr(model, "config", None)
    image, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if name == "pixel_values" and isinstance(channels, int) and isinstance(image, (int, list, tuple)):
        height, width = (image, image) if isinstance(image, int) else tuple(image)[:2]
        return Inputs(
            args=(),
            kwargs={"pixel_values": torch.randn(1, channels, height, width)},
            rule="the image size in the model's config",
        )
    timm_config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(timm_config, Mapping):
        size = timm_config.get("input_size")
    if not (isinstance(size, tuple) and all(isinstance(item, int) for item in size)):
        return None
    return Inputs(args=(torch.randn(1, *size),), kwargs={}, rule="input_size of the model's own configuration")


def _tensors_in_file(user: UserFile, model: Callable[..., Any], signature: inspect.Signature | None) -> Inputs | None:
    names, required = user.names, required_parameters(signature)
    if required and all(isinstance(names.get(name), torch.Tensor) for name in required):
        rule = f"module-level {', '.join(required)}, named like the parameters"
        return Inputs(args=tuple(names[name] for name in required), kwargs={}, rule=rule)
    for name in TENSOR_NAMES:
        value = names.get(name)
        call = read_call(value, signature) if _holds_tensors(value) else ""
        if not isinstance(call, str):
            return Inputs(args=call[0], kwargs=call[1], rule=f"module-level {name}")
    return None


def _holds_tensors(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_tensors(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_tensors(item) for item in value)
    return isinstance(value, torch.Tensor)


def call_user(user: UserFile, function: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function of the user's file; what it raises names the user's line."""
    with user_code(user.shown, user.path, f"calling {name}"):
        return function(*args, **kwargs)


def call_text(model: Callable[..., Any]) -> str:
    """How the model is called, for messages: ``Net.forward(x, mask=None)``."""
    signature = signature_of(model)
    name = f"{type(model).__name__}.forward" if isinstance(model, nn.Module) else getattr(model, "__name__", "it")
    if signature is None:
        return f"{name}(...)"
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    shown = [str(parameter) for parameter in bare]
    return f"{name}({', '.join(shown[:6])}{', …' if len(shown) > 6 else ''})"


def _how_to_add(user: UserFile, model: Callable[..., Any], signature: inspect.Signature | None) -> str:
    required = required_parameters(signature) or ["x"]
    sample = ", ".join("torch.randn(1, 16)" for _ in required)
    skipped = [
        f"{name}{signature_of(value)}"
        for name, value in user.names.items()
        if name in FILE_NAMES and callable(value) and required_parameters(signature_of(value))
    ]
    note = f"\n({', '.join(skipped)} was not used: it needs arguments.)" if skipped else ""
    return (
        f"{user.shown}: found the model but no example inputs for {call_text(model)}.{note}\n"
        f"Add to the file, with your own shapes and dtypes:\n\n"
        f"    import torch\n"
        f"    def get_inputs():\n"
        f"        return [{sample}]  # {', '.join(required)}\n\n"
        f"or give their sizes: {' '.join(f'--input {name}:1x16:float32' for name in required)}\n"
    )
