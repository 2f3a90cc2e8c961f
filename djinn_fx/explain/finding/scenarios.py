"""Files that say how their model is called in more than one way, or hold a list of test cases."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from djinn_fx.errors import ModelFileError
from djinn_fx.explain.finding.file import UserFile
from djinn_fx.explain.finding.inputs import call_user, read_call, signature_of
from djinn_fx.explain.finding.targets import is_factory, is_model_class, unwrap

#: Names of lists of test cases.
CASE_NAMES = ("TESTCASES", "TEST_CASES", "test_cases", "testcases", "get_test_cases", "CASES", "cases")
#: More cases than this are listed, not all examined.
MOST_CASES = 12
_MODEL_KEYS = ("model", "module", "cls", "fn", "function")
_INPUT_KEYS = ("inputs", "args", "input", "example_inputs", "forward_args")
_INIT_KEYS = ("init_args", "init_inputs", "init")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of one model.

    Attributes:
        name: of the scenario.
        make: gives the model; None: the file's own.
        inputs: what it is called with, unread; a function gives them.
    """

    name: str
    make: Callable[[], Any] | None
    inputs: Any


def entry_cases(made: Any) -> list[Case] | None:
    """What ``djinn_entry()`` gave, if that is several scenarios: ``{name: inputs}``, ``{name: (model, inputs)}`` or
    ``(model, {name: inputs})``; None if it is a model, with inputs or without.
    """
    if _are_named(made):
        return [_entry_case(name, value) for name, value in made.items()]
    if isinstance(made, (tuple, list)) and len(made) == 2 and _is_model(made[0]) and _are_named(made[1]):
        model = unwrap(made[0])
        signature = signature_of(model)
        parameters = signature.parameters if signature is not None else {}
        if not all(name in parameters for name in made[1]):
            return [Case(name=name, make=lambda: model, inputs=value) for name, value in made[1].items()]
    return None


def _entry_case(name: str, value: Any) -> Case:
    if isinstance(value, (tuple, list)) and len(value) == 2 and _is_model(value[0]):
        model = unwrap(value[0])
        return Case(name=name, make=lambda: model, inputs=value[1])
    return Case(name=name, make=None, inputs=value)


def listed_cases(user: UserFile) -> tuple[str, list[Case]] | None:
    """The file's list of test cases and its name; None if it has none."""
    for name in CASE_NAMES:
        value = user.names.get(name)
        if is_factory(value):
            assert callable(value)
            value = call_user(user, value, f"{name}()")
        if not isinstance(value, (list, tuple, Mapping)) or not value:
            continue
        items = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
        cases = [_read_case(user, label, item) for label, item in items]
        if all(case is not None for case in cases):
            return name, _distinct([case for case in cases if case is not None])
    return None


def _read_case(user: UserFile, label: str | None, item: Any) -> Case | None:
    """One item of such a list; None if it is none."""
    if isinstance(item, Mapping):
        model = next((item[key] for key in _MODEL_KEYS if key in item), None)
        inputs = next((item[key] for key in _INPUT_KEYS if key in item), None)
        init = next((item[key] for key in _INIT_KEYS if key in item), None)
        if isinstance(item.get("kwargs"), Mapping):
            inputs = [list(inputs) if isinstance(inputs, (list, tuple)) else [inputs], item["kwargs"]]
        label = label or item.get("name")
        return _case(user, label, model, init, inputs) if _is_model(model) and inputs is not None else None
    if not isinstance(item, (list, tuple)):
        return None
    rest = list(item)
    if rest and isinstance(rest[0], str):
        label = label or rest.pop(0)
    if len(rest) == 2 and _is_model(rest[0]):
        return _case(user, label, rest[0], None, rest[1])
    if len(rest) in (3, 4) and is_model_class(rest[0]):  # (class, init_args, forward_args[, compiles])
        return _case(user, label, rest[0], rest[1], rest[2])
    return None


def _case(user: UserFile, label: str | None, model: Any, init: Any, inputs: Any) -> Case:
    model = unwrap(model)
    name = label or (type(model).__name__ if isinstance(model, nn.Module) else model.__name__)
    if not isinstance(model, type):
        return Case(name=name, make=lambda: model, inputs=inputs)

    def make() -> Any:
        given = call_user(user, init, f"the arguments of {name}") if inspect.isfunction(init) else init
        call = read_call(given if given is not None else (), signature_of(model))
        if isinstance(call, str):
            raise ModelFileError(f"{user.shown}: the arguments given for {name} do not fit its constructor: {call}")
        return call_user(user, model, f"{name}(...)", *call[0], **call[1])

    return Case(name=name, make=make, inputs=inputs)


def _distinct(cases: Sequence[Case]) -> list[Case]:
    """Each with a name of its own."""
    names = [case.name for case in cases]
    return [
        case if names.count(case.name) == 1 else Case(name=f"{case.name}#{place}", make=case.make, inputs=case.inputs)
        for place, case in zip(_occurrences(names), cases, strict=True)
    ]


def _occurrences(names: Sequence[str]) -> Iterator[int]:
    """The how-manieth of its name each is, from 1."""
    for place, name in enumerate(names):
        yield names[: place + 1].count(name)


def _are_named(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(key, str) for key in value)


def _is_model(value: Any) -> bool:
    value = unwrap(value)
    return isinstance(value, nn.Module) or is_model_class(value) or inspect.isfunction(value)


def value_of(user: UserFile, case: Case) -> Any:
    """A case's inputs."""
    if inspect.isfunction(case.inputs) and not isinstance(case.inputs, torch.Tensor):
        return call_user(user, case.inputs, f"the inputs of {case.name}")
    return case.inputs
