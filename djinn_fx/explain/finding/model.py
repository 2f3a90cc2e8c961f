"""Find the model a user's file defines, and inputs to call it with, by the usual conventions."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from djinn_fx.errors import ModelFileError, did_you_mean
from djinn_fx.explain.finding.file import UserFile, beside, load_user_file, split_spec
from djinn_fx.explain.finding.inputs import (
    Inputs,
    call_user,
    find_inputs,
    given_inputs,
    required_parameters,
    signature_of,
)
from djinn_fx.explain.finding.targets import Target, is_factory, is_model_class, resolve, unwrap

_FACTORY_NAMES = ("build_model", "create_model", "make_model", "get_module", "get_model_and_inputs")


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model, one call's arguments, and how they were found.

    Attributes:
        module: the nn.Module or function.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        rule: the convention that hit, for the reader.
        attr: the name in the file.
        file: the path as the user gave it.
        path: the same, absolute.
    """

    module: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rule: str
    attr: str
    file: str
    path: Path


def find_model(spec: str) -> FoundModel:
    """Load ``model.py`` or ``model.py:attr`` and find the model and its inputs.

    Raises:
        ModelFileError: the file cannot be loaded, holds no model or several, or has no inputs for it.
    """
    shown, attr = split_spec(spec)
    torch.manual_seed(0)
    user = load_user_file(shown)
    with beside(user.path):
        if attr is not None:
            return _explicit(user, attr)
        name, target = _by_convention(user)
        return _with_inputs(user, name, target)


def _explicit(user: UserFile, attr: str) -> FoundModel:
    first, *rest = attr.split(".")
    if not hasattr(user.module, first):
        hint = did_you_mean(first, user.names)
        raise ModelFileError(f"{user.shown}: defines no {first!r}{hint}{_as_commands(user, _candidates(user))}")
    owner = unwrap(getattr(user.module, first))
    value = owner
    for index, part in enumerate(rest):
        if not hasattr(value, part):
            raise ModelFileError(f"{user.shown}:{'.'.join([first, *rest[:index]])} has no attribute {part!r}")
        value = unwrap(getattr(value, part))
    if rest and isinstance(owner, nn.Module) and isinstance(value, nn.Module):
        return _submodule(user, attr, first, owner, value)
    return _with_inputs(user, attr, resolve(user, attr, value))


def _submodule(user: UserFile, attr: str, first: str, owner: nn.Module, part: nn.Module) -> FoundModel:
    """A part of a model: its inputs are those it gets when the whole model runs."""
    whole = find_inputs(user, owner)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = part.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    try:
        with torch.no_grad():
            call_user(user, owner, first, *whole.args, **whole.kwargs)
    finally:
        hook.remove()
    if not calls:
        raise ModelFileError(f"{user.shown}: {attr} is not called when {first} runs with {whole.rule}")
    rule = f"what it gets when {first} runs with {whole.rule}"
    return _found(user, attr, Target(model=part, rule=attr), Inputs(args=calls[0][0], kwargs=calls[0][1], rule=rule))


def _with_inputs(user: UserFile, attr: str, target: Target) -> FoundModel:
    if target.inputs is not None:
        return _found(user, attr, target, given_inputs(user, target.model, target.inputs, target.rule))
    return _found(user, attr, target, find_inputs(user, target.model))


def _found(user: UserFile, attr: str, target: Target, inputs: Inputs) -> FoundModel:
    rule = target.rule if inputs.rule == target.rule else f"{target.rule}; inputs from {inputs.rule}"
    return FoundModel(
        module=target.model,
        args=inputs.args,
        kwargs=inputs.kwargs,
        rule=rule,
        attr=attr,
        file=user.shown,
        path=user.path,
    )


def _by_convention(user: UserFile) -> tuple[str, Target]:
    names = user.names
    if is_factory(names.get("get_model")):
        return "get_model", resolve(user, "get_model", names["get_model"])
    model = unwrap(names.get("model"))
    if isinstance(model, nn.Module) or is_model_class(model) or inspect.isfunction(model):
        return "model", resolve(user, "model", model)
    if is_model_class(names.get("Model")) and "get_inputs" in names:
        return "Model", resolve(user, "Model", names["Model"])
    for choose in (_benchmark_classes, _instances, _classes, _factories, _bare_instances):
        found = choose(user)
        if len(found) > 1:
            raise ModelFileError(f"{user.shown}: holds more than one model{_as_commands(user, found)}")
        if found:
            target = resolve(user, found[0], names[found[0]])
            return found[0], Target(model=target.model, inputs=target.inputs, rule=f"the one model: {target.rule}")
    raise ModelFileError(_nothing_found(user))


def _benchmark_classes(user: UserFile) -> list[str]:
    return [
        name
        for name, value in user.names.items()
        if isinstance(value, type)
        and not issubclass(value, nn.Module)
        and _is_local(user, value)
        and callable(getattr(value, "get_module", None))
    ]


def _instances(user: UserFile) -> list[str]:
    """Module-level instances, without losses and activations, second names, and parts of other instances."""
    found: dict[str, nn.Module] = {}
    for name, value in user.names.items():
        module = unwrap(value)
        known = any(module is other for other in found.values())
        if isinstance(module, nn.Module) and not known and not _is_bare(module):
            found[name] = module
    parts = {id(part) for module in found.values() for part in module.modules() if part is not module}
    return [name for name, module in found.items() if id(module) not in parts]


def _bare_instances(user: UserFile) -> list[str]:
    return [name for name, value in user.names.items() if isinstance(value, nn.Module) and _is_bare(value)]


def _is_bare(module: nn.Module) -> bool:
    """A loss or activation of torch.nn: no parameters and no parts; hardly ever what a file is about."""
    built_in = type(module).__module__.startswith("torch.nn.modules")
    return built_in and not list(module.children()) and not list(module.parameters())


def _classes(user: UserFile) -> list[str]:
    """Classes defined in the file that can be constructed; a class used inside another is left out."""
    can_init = "get_init_inputs" in user.names
    found = {name: cls for name, cls in _model_classes(user).items() if can_init or is_factory(cls)}
    if len(found) < 2:
        return list(found)
    used: set[type] = set()
    for name, cls in found.items():
        if is_factory(cls):
            made = call_user(user, cls, f"{name}()")
            used.update(type(part) for part in made.modules() if type(part) is not cls)
    return [name for name, cls in found.items() if cls not in used] or list(found)


def _model_classes(user: UserFile) -> dict[str, Any]:
    """The nn.Module classes defined in the file; a second name of one is left out."""
    found: dict[str, Any] = {}
    for name, value in user.names.items():
        if is_model_class(value) and _is_local(user, value) and value not in found.values():
            found[name] = value
    return found


def _factories(user: UserFile) -> list[str]:
    return [name for name in _FACTORY_NAMES if is_factory(user.names.get(name))]


def _candidates(user: UserFile) -> list[str]:
    found = [name for name in ("get_model", *_factories(user)) if is_factory(user.names.get(name))]
    found += [*_instances(user), *_benchmark_classes(user), *_classes(user)]
    functions = [name for name, value in user.names.items() if _is_function(user, value)]
    return found or [name for name in functions if not name.startswith("get_")]


def _is_function(user: UserFile, value: object) -> bool:
    return inspect.isfunction(value) and _is_local(user, value)


def _is_local(user: UserFile, value: object) -> bool:
    return getattr(unwrap(value), "__module__", None) == user.module.__name__


def _as_commands(user: UserFile, names: Iterable[str]) -> str:
    lines = [f"    python -m djinn_fx.explain {shlex.quote(user.shown)}:{name}" for name in names]
    return "; choose one:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _nothing_found(user: UserFile) -> str:
    classes = _model_classes(user)
    make, why = "MyModel()", _as_commands(user, _candidates(user))
    if classes:
        name, cls = list(classes.items())[-1]
        make = f"{name}({', '.join(required_parameters(signature_of(cls)))})"
        why = f"; {name} cannot be constructed without arguments"
    return (
        f"{user.shown}: no model found{why}\n"
        f"Add to the file:\n\n"
        f"    def get_model():\n"
        f"        return {make}  # an nn.Module\n"
    )
