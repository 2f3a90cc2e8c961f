"""Find the model a user's file defines, and inputs to call it with, by the usual conventions."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from djinn_fx.errors import ModelFailedError, ModelFileError, did_you_mean
from djinn_fx.explain.finding.candidates import (
    as_commands,
    bare_instances,
    benchmark_classes,
    candidates,
    factories,
    instances,
    likely_classes,
)
from djinn_fx.explain.finding.file import UserFile, beside, load_user_file, split_spec
from djinn_fx.explain.finding.inputs import Inputs, call_user, find_inputs, given_inputs
from djinn_fx.explain.finding.targets import Target, is_factory, is_model_class, resolve, unwrap
from djinn_fx.explain.finding.weightless import Faker, OnThisMachine, fake_mode, without_weights


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
        faker: what gave it tensors without values; None: it is as the file makes it.
        scenario: of several calls, which; empty where there is one only.
    """

    module: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rule: str
    attr: str
    file: str
    path: Path
    faker: Faker | None = None
    scenario: str = ""

    def values_aside(self) -> contextlib.AbstractContextManager[object]:
        """In which it can be called: where its tensors have no values, what it makes has none either."""
        return self.faker.mode if self.faker is not None else contextlib.nullcontext()


def find_model(spec: str, *, fake: bool = False) -> FoundModel:
    """Load ``model.py`` or ``model.py:attr`` and find the model and its inputs.

    Args:
        spec: what follows the command.
        fake: weights and inputs have no values, and take no memory.

    Raises:
        ModelFileError: the file holds no model or several, or has no inputs for it.
        ModelFailedError: its code raises.
    """
    shown, attr = split_spec(spec)
    torch.manual_seed(0)
    with without_weights() if fake else contextlib.nullcontext(), OnThisMachine():
        user = load_user_file(shown)
        with beside(user.path):
            name, target = _explicit(user, attr) if attr is not None else _by_convention(user)
    faker = Faker(fake_mode()) if fake else None
    with beside(user.path), OnThisMachine():
        if faker is not None:
            for one in (*user.names.values(), target.model, target.owner):
                if isinstance(one, nn.Module):
                    faker.fill(one)
        return _with_inputs(user, name, target, faker)


def _explicit(user: UserFile, attr: str) -> tuple[str, Target]:
    first, *rest = attr.split(".")
    if not hasattr(user.module, first):
        hint = did_you_mean(first, user.names)
        raise ModelFileError(f"{user.shown}: defines no {first!r}{hint}{as_commands(user, candidates(user))}")
    owner = unwrap(getattr(user.module, first))
    value = owner
    for index, part in enumerate(rest):
        if not hasattr(value, part):
            raise ModelFileError(f"{user.shown}:{'.'.join([first, *rest[:index]])} has no attribute {part!r}")
        value = unwrap(getattr(value, part))
    if rest and isinstance(owner, nn.Module) and isinstance(value, nn.Module):
        return attr, Target(model=value, rule=attr, owner=owner)
    return attr, resolve(user, attr, value)


def _with_inputs(user: UserFile, attr: str, target: Target, faker: Faker | None) -> FoundModel:
    if target.owner is not None:
        inputs = _of_a_part(user, attr, target.owner, target.model, faker)
    elif target.inputs is not None:
        inputs = given_inputs(user, target.model, target.inputs, target.rule)
    else:
        inputs = _inputs(user, target.model, faker)
    args, kwargs = (inputs.args, inputs.kwargs) if faker is None else faker.values((inputs.args, inputs.kwargs))
    rule = target.rule if inputs.rule == target.rule else f"{target.rule}; inputs from {inputs.rule}"
    return FoundModel(
        module=target.model,
        args=args,
        kwargs=kwargs,
        rule=rule,
        attr=attr,
        file=user.shown,
        path=user.path,
        faker=faker,
    )


def _inputs(user: UserFile, model: Callable[..., Any], faker: Faker | None) -> Inputs:
    """Inputs, made without values where the file's code needs none."""
    if faker is not None:
        with contextlib.suppress(ModelFailedError), faker.mode:
            return find_inputs(user, model)
    return find_inputs(user, model)


def _of_a_part(user: UserFile, attr: str, owner: nn.Module, part: Callable[..., Any], faker: Faker | None) -> Inputs:
    """A part of a model: its inputs are those it gets when the whole model runs."""
    first = attr.partition(".")[0]
    whole = _inputs(user, owner, faker)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    assert isinstance(part, nn.Module)
    hook = part.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    try:
        with torch.no_grad(), faker.mode if faker is not None else contextlib.nullcontext():
            call_user(user, owner, first, *whole.args, **whole.kwargs)
    finally:
        hook.remove()
    if not calls:
        raise ModelFileError(f"{user.shown}: {attr} is not called when {first} runs with {whole.rule}")
    rule = f"what it gets when {first} runs with {whole.rule}"
    return Inputs(args=calls[0][0], kwargs=calls[0][1], rule=rule)


def _by_convention(user: UserFile) -> tuple[str, Target]:
    names = user.names
    if is_factory(names.get("djinn_entry")):
        return "djinn_entry", resolve(user, "djinn_entry", names["djinn_entry"])
    if is_factory(names.get("get_model")):
        return "get_model", resolve(user, "get_model", names["get_model"])
    model = unwrap(names.get("model"))
    if isinstance(model, nn.Module) or is_model_class(model) or inspect.isfunction(model):
        return "model", resolve(user, "model", model)
    if is_model_class(names.get("Model")) and "get_inputs" in names:
        return "Model", resolve(user, "Model", names["Model"])
    for choose in (benchmark_classes, instances, likely_classes, factories, bare_instances):
        found = choose(user)
        if len(found) > 1:
            every = dict.fromkeys([*found, *candidates(user)])
            raise ModelFileError(f"{user.shown}: holds more than one model{as_commands(user, every)}")
        if found:
            target = resolve(user, found[0], names[found[0]])
            return found[0], Target(model=target.model, inputs=target.inputs, rule=f"the one model: {target.rule}")
    raise ModelFileError(_nothing_found(user))


def _nothing_found(user: UserFile) -> str:
    return (
        f"{user.shown}: no model found{as_commands(user, candidates(user))}\n"
        f"Add to the file:\n\n"
        f"    def get_model():\n"
        f"        return MyModel()  # an nn.Module\n"
    )
