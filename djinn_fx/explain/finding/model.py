"""Find the model a user's file defines, and inputs to call it with, by the usual conventions."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
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
from djinn_fx.explain.finding.file import (
    UserFile,
    beside,
    import_user_module,
    is_import_path,
    load_user_file,
    split_spec,
)
from djinn_fx.explain.finding.inputs import (
    Inputs,
    call_user,
    find_inputs,
    given_inputs,
    typed_inputs,
)
from djinn_fx.explain.finding.scenarios import MOST_CASES, Case, entry_cases, listed_cases, value_of
from djinn_fx.explain.finding.targets import Target, entry_target, is_factory, is_model_class, resolve, unwrap
from djinn_fx.explain.finding.typed import TypedInput
from djinn_fx.explain.finding.weightless import Faker, described_device, fake_mode, for_lack_of_values, without_weights

log = logging.getLogger("djinn_fx.explain")


class Rung(IntEnum):
    """How a model was made; the next one is tried where one fails."""

    #: Its constructor ran for real, and each parameter lost its memory as it was registered.
    REGISTERED = 1
    #: Its constructor ran under fake tensors.
    CONSTRUCTED = 2
    #: For real, with values.
    VALUES = 3


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model, one call's arguments, and how they were found.

    Attributes:
        module: the nn.Module or function.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        rule: the convention that hit, for the reader.
        made: its part on the model.
        given: its part on the inputs.
        attr: the name in the file.
        file: the path as the user gave it.
        path: the same, absolute.
        faker: what gave it tensors without values; None: it is as the file makes it.
        scenario: of several calls, which; empty where there is one only.
        typed: its inputs by size and type, where they were given so.
        rung: how it was made.
        names_cuda: its file speaks of CUDA, which may not be here.
    """

    module: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rule: str
    made: str
    given: str
    attr: str
    file: str
    path: Path
    faker: Faker | None = None
    scenario: str = ""
    typed: tuple[TypedInput, ...] = ()
    rung: Rung = Rung.VALUES
    names_cuda: bool = False

    def values_aside(self) -> contextlib.AbstractContextManager[object]:
        """In which it can be called: where its tensors have no values, what it makes has none either."""
        return self.faker.mode if self.faker is not None else contextlib.nullcontext()

    def on_the_described_device(self) -> contextlib.AbstractContextManager[object]:
        """In which it is captured and run; where nothing speaks of CUDA that would only cost time."""
        return described_device() if self.names_cuda else contextlib.nullcontext()

    def mark_sizes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Tell Dynamo which sizes of these arguments may vary."""
        positional = iter(args)
        for one in self.typed:
            one.mark(kwargs[one.name] if one.name is not None else next(positional))


def find_model(spec: str, *, fake: bool = False) -> FoundModel:
    """The first scenario of :func:`find_scenarios`."""
    return find_scenarios(spec, fake=fake)[0]


def find_scenarios(spec: str, *, fake: bool = False, typed: Sequence[TypedInput] = ()) -> list[FoundModel]:
    """Load ``model.py``, ``model.py:attr`` or ``package.module:attr``, and find the model and its inputs.

    Args:
        spec: what follows the command.
        fake: weights and inputs have no values, and take no memory.
        typed: inputs by size and type, in the place of the file's.

    Returns:
        One for each way of calling the model that the file names.

    Raises:
        ModelFileError: the file holds no model or several, or has no inputs for it.
        ModelFailedError: its code raises.
    """
    if not fake:
        return _find(spec, Rung.VALUES, typed)
    try:
        return _find(spec, Rung.REGISTERED, typed)
    except ModelFailedError as error:
        if not for_lack_of_values(error):
            raise
        log.info("%s: its constructor needs its weights: made under fake tensors", spec)
        try:
            return _find(spec, Rung.CONSTRUCTED, typed)
        except ModelFileError:
            raise error from None


def _find(spec: str, rung: Rung, typed: Sequence[TypedInput]) -> list[FoundModel]:
    shown, attr = split_spec(spec)
    torch.manual_seed(0)
    mode = fake_mode()
    making: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if rung is not Rung.VALUES:
        making = without_weights() if rung is Rung.REGISTERED else mode
    with making, described_device():
        user = load_user_file(shown) if attr is None or not is_import_path(shown) else import_user_module(shown)
        with beside(user.path):
            name, targets = _explicit(user, attr) if attr is not None else _by_convention(user)
    faker = Faker(mode) if rung is not Rung.VALUES else None
    with beside(user.path), described_device():
        if faker is not None:
            owners = [owner for target in targets for owner in (target.model, target.owner)]
            for one in (*user.names.values(), *owners):
                if isinstance(one, nn.Module):
                    faker.fill(one)
        found = [_with_inputs(user, name, target, faker, typed) for target in targets]
    names_cuda = b"cuda" in user.path.read_bytes()
    return [replace(one, rung=rung, names_cuda=names_cuda) for one in found]


def _explicit(user: UserFile, attr: str) -> tuple[str, list[Target]]:
    first, *rest = attr.split(".")
    if not hasattr(user.module, first):
        named = _named_scenario(user, attr)
        if named is not None:
            return attr, [named]
        hint = did_you_mean(first, user.names)
        raise ModelFileError(f"{user.shown}: defines no {first!r}{hint}{as_commands(user, candidates(user))}")
    owner = unwrap(getattr(user.module, first))
    value = owner
    for index, part in enumerate(rest):
        if not hasattr(value, part):
            raise ModelFileError(f"{user.shown}:{'.'.join([first, *rest[:index]])} has no attribute {part!r}")
        value = unwrap(getattr(value, part))
    if rest and isinstance(owner, nn.Module) and isinstance(value, nn.Module):
        return attr, [Target(model=value, rule=attr, owner=owner)]
    if attr == "djinn_entry":
        return attr, _entry(user)
    named = _named_scenario(user, attr) if is_model_class(value) else None
    return attr, [named or resolve(user, attr, value)]


def _named_scenario(user: UserFile, name: str) -> Target | None:
    """One of several that djinn_entry() gives, or of the list of test cases."""
    if is_factory(user.names.get("djinn_entry")):
        found = [target for target in _entry(user) if target.scenario == name]
        if found:
            return replace(found[0], scenario="")
    listed = listed_cases(user)
    case = next((case for case in listed[1] if case.name == name), None) if listed is not None else None
    return (
        replace(_of_case(user, case, f"{listed[0]}"), scenario="") if case is not None and listed is not None else None
    )


def _entry(user: UserFile) -> list[Target]:
    """What djinn_entry() gives."""
    function = user.names["djinn_entry"]
    assert callable(function)
    made = call_user(user, function, "djinn_entry()")
    cases = entry_cases(made)
    if cases is None:
        return [entry_target(user, made)]
    return [_of_case(user, case, "djinn_entry()") for case in cases]


def _of_case(user: UserFile, case: Case, rule: str) -> Target:
    if case.make is None:
        _, (target,) = _by_convention(user, entry=False)
        rule = f"{target.rule}; inputs from {rule}"
    else:
        target = Target(model=unwrap(case.make()), rule=rule)
    return replace(target, inputs=value_of(user, case), rule=rule, scenario=case.name)


def _with_inputs(
    user: UserFile, attr: str, target: Target, faker: Faker | None, typed: Sequence[TypedInput]
) -> FoundModel:
    if typed:
        inputs = typed_inputs(target.model, typed)
    elif target.owner is not None:
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
        made=target.rule,
        given=inputs.rule,
        attr=attr,
        file=user.shown,
        path=user.path,
        faker=faker,
        scenario=target.scenario,
        typed=tuple(typed),
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


def _by_convention(user: UserFile, entry: bool = True) -> tuple[str, list[Target]]:
    """The name of what is examined, and a target for each scenario; ``entry``: djinn_entry() too."""
    names = user.names
    if entry and is_factory(names.get("djinn_entry")):
        return "djinn_entry", _entry(user)
    if is_factory(names.get("get_model")):
        return "get_model", [resolve(user, "get_model", names["get_model"])]
    model = unwrap(names.get("model"))
    if isinstance(model, nn.Module) or is_model_class(model) or inspect.isfunction(model):
        return "model", [resolve(user, "model", model)]
    if is_model_class(names.get("Model")) and "get_inputs" in names:
        return "Model", [resolve(user, "Model", names["Model"])]
    listed = listed_cases(user)
    if listed is not None:
        return listed[0], _listed(user, *listed)
    for choose in (benchmark_classes, instances, factories, likely_classes, bare_instances):
        found = choose(user)
        if len(found) > 1:
            every = dict.fromkeys([*found, *candidates(user)])
            raise ModelFileError(f"{user.shown}: holds more than one model{as_commands(user, every)}")
        if found:
            target = resolve(user, found[0], names[found[0]])
            return found[0], [replace(target, rule=f"the one model: {target.rule}")]
    raise ModelFileError(_nothing_found(user))


def _listed(user: UserFile, name: str, cases: list[Case]) -> list[Target]:
    if len(cases) > MOST_CASES:
        every = as_commands(user, [case.name for case in cases])
        raise ModelFileError(f"{user.shown}: {name} has {len(cases)} cases, more than are examined at once{every}")
    found = [_of_case(user, case, name) for case in cases]
    return found if len(found) > 1 else [replace(found[0], scenario="")]


def _nothing_found(user: UserFile) -> str:
    return (
        f"{user.shown}: no model found{as_commands(user, candidates(user))}\n"
        f"Add to the file:\n\n"
        f"    def get_model():\n"
        f"        return MyModel()  # an nn.Module\n"
    )
