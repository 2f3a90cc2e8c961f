"""Buffers that no file holds, such as rotary frequencies that a constructor computes, in a model on the meta device."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from djinn_fx import threads
from djinn_fx.errors import ModelFileError

_building = threads.new_rlock()


@contextlib.contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Build a model whose parameters take no memory and whose buffers are computed as always.

    Parameters of modules made in this context, in whatever thread, go to the meta device as they are registered.
    """
    with _building:
        register = nn.Module.register_parameter

        def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
            if isinstance(param, nn.Parameter) and not param.is_meta:
                param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
            register(self, name, param)

        nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]


def fill_computed_buffers(model: nn.Module) -> None:
    """Compute the buffers on the meta device that are not saved with a model, by making their modules once more.

    That is done where a module keeps each argument of its constructor in an attribute of the same name, and is believed
    where the new module is equal to the old one in all else.

    Raises:
        ModelFileError: a buffer cannot be had this way; says how to build the model instead.
    """
    for path, module in model.named_modules():
        lacking = _lacking(module)
        if not lacking:
            continue
        again = _made_again(module)
        if again is None:
            names = ", ".join(f"{path}.{name}".lstrip(".") for name in lacking)
            raise ModelFileError(
                f"the buffers {names} are on the meta device and in no file: a constructor computed them. Build the "
                "model within djinn_fx.parameters_on_meta() instead: buffers keep their numbers there"
            )
        for name in lacking:
            setattr(module, name, getattr(again, name))


def move_buffers(model: nn.Module, device: torch.device) -> None:
    """Put the buffers, and tensors that are plain attributes, on a device: those that are no parameters."""
    for module in model.modules():
        for table in (module._buffers, vars(module)):
            for name, tensor in list(table.items()):
                if isinstance(tensor, torch.Tensor) and tensor.device != device:
                    table[name] = tensor.to(device)


def _lacking(module: nn.Module) -> list[str]:
    """Its tensors on the meta device that no file holds: buffers that are not saved, and plain attributes."""
    buffers = {n: b for n, b in module._buffers.items() if n in module._non_persistent_buffers_set}
    plain = {n: v for n, v in vars(module).items() if isinstance(v, torch.Tensor)}
    return [name for name, tensor in (*buffers.items(), *plain.items()) if tensor is not None and tensor.is_meta]


def _made_again(module: nn.Module) -> nn.Module | None:
    """A second module from the same arguments, with real buffers; None where one cannot be sure of it."""
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name == "self":
            continue
        if name == "device":
            arguments[name] = "cpu"
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name not in vars(module):
            return None
        else:
            arguments[name] = vars(module)[name]
    try:
        with parameters_on_meta(), torch.device("cpu"):
            again = type(module)(**arguments)
    except Exception:  # noqa: BLE001 - the caller says that it cannot be made again
        return None
    return again if _alike(module, again) else None


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same buffers, and the same plain attributes."""
    buffers, others = dict(one.named_buffers()), dict(other.named_buffers())
    if {n: (b.shape, b.dtype) for n, b in buffers.items()} != {n: (b.shape, b.dtype) for n, b in others.items()}:
        return False
    plain = (bool, int, float, str, bytes, tuple, list, type(None))
    return all(
        name in vars(other) and vars(other)[name] == value
        for name, value in vars(one).items()
        if isinstance(value, plain) and name != "training"
    )
