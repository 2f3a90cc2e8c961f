"""Global names that Dynamo's bytecode of a saved function loads: each gets into the file, or saving is refused.

Torch (2.13) writes down the modules that Dynamo imported for itself, but not those it put into the model's own globals
under a name with an address in it (``___module_collections_139937640466928_c0``, in every model whose output is a
dataclass of Transformers), nor the globals of the model's file. In the process that compiled they are there; where the
file is loaded torch raises "Missing required external references". It asks for our bytes in the middle of writing the
file, when what goes in can still be added to: modules by name, and what pickle finds again by module and name.

This is the one module that knows torch's names for that.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch._dynamo.aot_compile import AOTCompiledFunction

from djinn_fx.errors import EngineError

log = logging.getLogger("djinn_fx.runtime")


def complete_references(frame: types.FrameType | None) -> None:
    """Put into the file that is being written what its bytecode refers to.

    Args:
        frame: of the caller, torch's ``AOTCompiledFunction.serialize``; of anything else nothing is known or done.

    Raises:
        EngineError: the bytecode refers to something that cannot be found again in another process.
    """
    function = _being_written(frame)
    if function is None or frame is None:
        log.debug("torch writes saved functions in another way here; what they refer to is not looked at")
        return
    _check_closure(function, frame.f_locals.get("external_data"))
    artifacts: Any = function._artifacts
    environment: Any = artifacts.runtime_env
    known = {*environment.import_sources, *environment.used_globals, artifacts.backend_id}
    scope: dict[str, Any] = function.fn.__globals__
    lost = []
    for name in sorted(set(environment.external_refs) - known):
        value = scope.get(name, _ABSENT)
        if isinstance(value, types.ModuleType) and _importable(value):
            environment.import_sources[name] = value.__name__
        elif _found_by_name(value):
            environment.used_globals[name] = value
        else:
            lost.append(_described(name, value))
    if lost:
        raise EngineError(
            f"the compiled function cannot be saved: it uses {', '.join(lost)}, which another process could not find. "
            "Let forward take it as an argument or from the module itself, or let it return plain tensors"
        )


_ABSENT: Any = object()


def _being_written(frame: types.FrameType | None) -> AOTCompiledFunction | None:
    writer: Any = getattr(AOTCompiledFunction.serialize, "__func__", None)
    if frame is None or writer is None or frame.f_code is not writer.__code__:
        return None
    found = [value for value in frame.f_locals.values() if isinstance(value, AOTCompiledFunction)]
    return found[0] if len(found) == 1 and hasattr(found[0]._artifacts.runtime_env, "external_refs") else None


def _check_closure(function: AOTCompiledFunction, given: Any) -> None:
    """Torch calls a model whose forward is torch's own, such as a Sequential, by way of a function that holds it.

    Raises:
        EngineError: such a model is not among what the user gives on saving and loading (``external_data``).
    """
    outside = {id(value) for value in (given or {}).values()}
    for cell in function._artifacts.runtime_env.closure or ():
        held = cell.cell_contents
        if isinstance(held, torch.nn.Module) and id(held) not in outside:
            raise EngineError(
                f"the compiled function cannot be saved: the forward of {type(held).__name__} is torch's own, and "
                "then torch keeps the model inside the function. Compile a module of your own that calls it, or give "
                "external_data={'model': model} to save_compiled_function and load_compiled_function both"
            )


def _importable(module: types.ModuleType) -> bool:
    """Whether another process gets the same by its name: not a program's own ``__main__``, nor one made by hand."""
    return module.__name__ != "__main__" and sys.modules.get(module.__name__) is module and module.__spec__ is not None


def _found_by_name(value: Any) -> bool:
    """Whether it is a class or function that pickle writes as a module and a name."""
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return value is None or isinstance(value, (bool, int, float, str))
    if not isinstance(module, str) or not isinstance(path, str) or module == "__main__":
        return False
    try:
        return _follow(importlib.import_module(module), path.split(".")) is value
    except (ImportError, AttributeError):
        return False


def _follow(value: Any, names: Iterable[str]) -> Any:
    for name in names:
        value = getattr(value, name)
    return value


def _described(name: str, value: Any) -> str:
    if value is _ABSENT:
        return f"the global {name!r}"
    return f"the global {name!r} ({type(value).__name__} {getattr(value, '__qualname__', '')}".rstrip() + ")"
