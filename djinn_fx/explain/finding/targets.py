"""Turn one object of a user's file into a model: an instance, a class, a factory or a plain function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from djinn_fx.errors import ModelFileError
from djinn_fx.explain.finding.file import UserFile
from djinn_fx.explain.finding.inputs import call_user, read_call, required_parameters, signature_of


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model that was found.

    Attributes:
        model: what is called.
        rule: how it was made, for the reader.
        inputs: what came with the model, unread; None if nothing did.
        owner: the whole model, where this is a part of one.
        scenario: of several ways of calling it, which.
    """

    model: Callable[..., Any]
    rule: str
    inputs: Any = None
    owner: nn.Module | None = None
    scenario: str = ""


def unwrap(value: Any) -> Any:
    """The model inside a ``torch.compile`` wrapper; other values as they are."""
    if isinstance(value, nn.Module):
        return getattr(value, "_orig_mod", value)
    if inspect.isfunction(value):
        return getattr(value, "_torchdynamo_orig_callable", value)
    return value


def is_model_class(value: object) -> bool:
    """Whether it is an nn.Module class with a forward of its own."""
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        return False
    return getattr(value.forward, "__name__", "") != "_forward_unimplemented"


def is_factory(value: object) -> bool:
    """Whether it is a function (or class) that can be called without arguments."""
    return callable(value) and not isinstance(value, nn.Module) and not required_parameters(signature_of(value))


def resolve(user: UserFile, name: str, value: Any) -> Target:
    """Make the model.

    Raises:
        ModelFileError: the object is not a model, cannot be constructed, or its code raises.
    """
    value = unwrap(value)
    if isinstance(value, torch.jit.ScriptModule) or (
        isinstance(value, type) and issubclass(value, torch.jit.ScriptModule)
    ):
        raise ModelFileError(
            f"{user.shown}:{name} is TorchScript, which torch.compile cannot look into; "
            "give the nn.Module that it was made from"
        )
    if isinstance(value, nn.Module):
        return Target(model=value, rule=f"{name}, an nn.Module")
    if isinstance(value, type):
        return _from_class(user, name, value)
    if callable(getattr(value, "get_module", None)) and not isinstance(value, ModuleType):
        return _from_pair(user, name, call_user(user, value.get_module, f"{name}.get_module()"), f"{name}.get_module()")
    if not callable(value) or isinstance(value, torch.Tensor):
        raise ModelFileError(
            f"{user.shown}:{name} is a {type(value).__name__}, not a model; give an nn.Module, a class of one, "
            f"a function that returns one, or a function on tensors"
        )
    if not is_factory(value):
        return Target(model=value, rule=f"{name}, a function")
    made = unwrap(call_user(user, value, f"{name}()"))
    if isinstance(made, nn.Module) or _is_pair(made):
        return _from_pair(user, name, made, f"{name}()")
    if made is None:
        raise ModelFileError(f"{user.shown}: {name}() returned None; it should return the model")
    return Target(model=value, rule=f"{name}, a function")


def entry_target(user: UserFile, made: Any) -> Target:
    """What ``djinn_entry()`` returned, where that is one model, with inputs or without.

    Raises:
        ModelFileError: it is neither.
    """
    made = unwrap(made)
    if isinstance(made, (tuple, list)) and len(made) == 2 and inspect.isfunction(made[0]):
        return Target(model=made[0], rule="djinn_entry()", inputs=made[1])
    return _from_pair(user, "djinn_entry", made, "djinn_entry()")


def _from_class(user: UserFile, name: str, cls: type[Any]) -> Target:
    if not issubclass(cls, nn.Module):
        return _from_benchmark_class(user, name, cls)
    signature = signature_of(cls)
    if "get_init_inputs" in user.names:
        given = call_user(user, _function(user, "get_init_inputs"), "get_init_inputs()")
        call = read_call(given, signature)
        if not isinstance(call, str):
            return Target(
                model=call_user(user, cls, f"{name}(*get_init_inputs())", *call[0], **call[1]),
                rule=f"{name} made with get_init_inputs()",
            )
        if required_parameters(signature):
            raise ModelFileError(f"{user.shown}: what get_init_inputs() gives does not fit {name}{signature}: {call}")
    missing = required_parameters(signature)
    if missing:
        raise ModelFileError(
            f"{user.shown}: {name} cannot be constructed without arguments ({', '.join(missing)}). Add to the file:\n\n"
            f"    def get_init_inputs():\n"
            f"        return [...]  # {', '.join(missing)}\n"
        )
    return Target(model=call_user(user, cls, f"{name}()"), rule=f"{name}(), an nn.Module class")


def _from_benchmark_class(user: UserFile, name: str, cls: type[Any]) -> Target:
    """A class whose ``get_module()`` returns ``(module, inputs)``, as in torchbench."""
    if not callable(getattr(cls, "get_module", None)):
        raise ModelFileError(f"{user.shown}:{name} is a class, but not of nn.Module, and has no get_module()")
    offered: dict[str, object] = {"test": "eval", "device": "cpu", "batch_size": None, "extra_args": []}
    missing = required_parameters(signature_of(cls))
    unknown = [parameter for parameter in missing if parameter not in offered]
    if unknown:
        raise ModelFileError(
            f"{user.shown}: {name} cannot be constructed: no value for {', '.join(unknown)}. Add to the file:\n\n"
            f"    def get_model():\n"
            f"        return {name}(...).get_module()  # the module and its inputs\n"
        )
    made = call_user(user, cls, f"{name}(...)", **{parameter: offered[parameter] for parameter in missing})
    return _from_pair(user, name, call_user(user, made.get_module, f"{name}.get_module()"), f"{name}.get_module()")


def _from_pair(user: UserFile, name: str, made: Any, rule: str) -> Target:
    made = unwrap(made)
    if isinstance(made, nn.Module):
        return Target(model=made, rule=rule)
    if _is_pair(made):
        return Target(model=unwrap(made[0]), rule=rule, inputs=made[1])
    raise ModelFileError(
        f"{user.shown}: {rule} returned a {type(made).__name__}; it should return the module, or (module, inputs)"
    )


def _is_pair(made: Any) -> bool:
    return isinstance(made, (tuple, list)) and len(made) == 2 and isinstance(unwrap(made[0]), nn.Module)


def _function(user: UserFile, name: str) -> Callable[..., Any]:
    value = user.names[name]
    if not is_factory(value):
        raise ModelFileError(f"{user.shown}: {name} should be a function without arguments")
    assert callable(value)
    return value
