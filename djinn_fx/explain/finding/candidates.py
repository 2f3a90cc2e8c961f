"""What in a file may be the model it is about. Nothing is constructed to find that out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

from torch import nn

from djinn_fx.explain.finding.file import UserFile, as_command
from djinn_fx.explain.finding.targets import is_factory, is_model_class, unwrap

FACTORY_NAMES = ("build_model", "create_model", "make_model", "get_module", "get_model_and_inputs")
#: Classes that files about a model hold beside it.
_BESIDE = re.compile(r"(Loss|Criterion|Metric|Metrics|Objective)$")


def candidates(user: UserFile) -> list[str]:
    """All that may be meant, the likeliest first."""
    found = [name for name in ("get_model", *factories(user)) if is_factory(user.names.get(name))]
    made = instances(user)
    kinds = {type(unwrap(user.names[name])) for name in made}
    classes = [name for name in all_classes(user) if user.names[name] not in kinds]
    found += [*made, *benchmark_classes(user), *classes]
    functions = [name for name, value in user.names.items() if inspect.isfunction(value) and _is_local(user, value)]
    return found or [name for name in functions if not name.startswith("get_")]


def benchmark_classes(user: UserFile) -> list[str]:
    """Classes with a ``get_module()``, as TorchBench has them."""
    return [
        name
        for name, value in user.names.items()
        if isinstance(value, type)
        and not issubclass(value, nn.Module)
        and _is_local(user, value)
        and callable(getattr(value, "get_module", None))
    ]


def instances(user: UserFile) -> list[str]:
    """Module-level instances, without losses and activations, second names, and parts of other instances."""
    found: dict[str, nn.Module] = {}
    for name, value in user.names.items():
        module = unwrap(value)
        known = any(module is other for other in found.values())
        if isinstance(module, nn.Module) and not known and not _is_bare(module):
            found[name] = module
    parts = {id(part) for module in found.values() for part in module.modules() if part is not module}
    whole = [name for name, module in found.items() if id(module) not in parts]
    return [name for name in whole if not _BESIDE.search(type(found[name]).__name__)] or whole


def bare_instances(user: UserFile) -> list[str]:
    """Module-level losses and activations of torch.nn."""
    return [name for name, value in user.names.items() if isinstance(value, nn.Module) and _is_bare(value)]


def likely_classes(user: UserFile) -> list[str]:
    """Classes of modules that are neither a part of another one of the file nor a loss; all, where none is left."""
    found = _model_classes(user)
    parts = _parts(user, found)
    likely = [name for name in found if name not in parts and not _BESIDE.search(name)]
    return likely or [name for name in found if not _BESIDE.search(name)] or list(found)


def all_classes(user: UserFile) -> list[str]:
    """Every class of a module, the likely ones first."""
    return list(dict.fromkeys([*likely_classes(user), *_model_classes(user)]))


def factories(user: UserFile) -> list[str]:
    """Functions with a usual name that make a model."""
    return [name for name in FACTORY_NAMES if is_factory(user.names.get(name))]


def as_commands(user: UserFile, names: Iterable[str]) -> str:
    """One command a name, below what is wrong; nothing where there is no name."""
    lines = [f"    {as_command(user.shown, name)}" for name in names]
    return "; choose one:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _is_bare(module: nn.Module) -> bool:
    """A loss or activation of torch.nn: no parameters and no parts; hardly ever what a file is about."""
    built_in = type(module).__module__.startswith("torch.nn.modules")
    return built_in and not list(module.children()) and not list(module.parameters())


def _model_classes(user: UserFile) -> dict[str, Any]:
    """The nn.Module classes defined in the file; a second name of one is left out."""
    found: dict[str, Any] = {}
    for name, value in user.names.items():
        model = is_model_class(value) and not inspect.isabstract(value)
        if model and _is_local(user, value) and value not in found.values():
            found[name] = value
    return found


def _parts(user: UserFile, classes: dict[str, Any]) -> set[str]:
    """Classes that another one derives from or names in its code, but not the other way round."""
    everything = vars(user.module)  # helpers may begin with an underscore
    mentions = {name: _mentioned(value) for name, value in everything.items() if not name.startswith("__")}
    reached = {name: _reached(name, mentions) for name in classes}
    return {part for part in classes for whole in classes if part in reached[whole] and whole not in reached[part]}


def _reached(start: str, mentions: dict[str, set[str]]) -> set[str]:
    """Every name that is mentioned, or mentioned by what is mentioned."""
    found: set[str] = set()
    left = [start]
    while left:
        new = (mentions.get(left.pop(), set()) & mentions.keys()) - found
        found |= new
        left += new
    return found


def _mentioned(value: object) -> set[str]:
    """Names that a class's, a function's or a container's definition holds."""
    if isinstance(value, type):
        bases = {base.__name__ for base in value.__mro__[1:]}
        return bases.union(*(_names_in(member) for member in vars(value).values()))
    if isinstance(value, dict):
        return {name for item in value.values() for name in _named(item)}
    if isinstance(value, (list, tuple, set)):
        return {name for item in value for name in _named(item)}
    return _names_in(value)


def _named(item: object) -> Iterator[str]:
    """The names of classes and functions in an item of a table."""
    for one in item if isinstance(item, (list, tuple)) else (item,):
        if isinstance(one, type) or inspect.isfunction(one):
            yield one.__name__


def _names_in(value: object) -> set[str]:
    """Global names that a function's code mentions, in functions inside of it too."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        return set().union(*(_names_in(one) for one in (value.fget, value.fset) if one is not None))
    code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
    return set(_names_of(code)) if isinstance(code, CodeType) else set()


def _names_of(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_of(constant)


def _is_local(user: UserFile, value: object) -> bool:
    return getattr(unwrap(value), "__module__", None) == user.module.__name__
