"""Results of Inductor's code in memory that is handed in: the allocations that become results are answered with it.

Generated code takes memory by one function of its module, one statement after the other, always in the same order. Its
text says which of these allocations a result lies in. Those get what is offered, where it is large enough; code that
takes memory in another way, or whose text reads otherwise, makes its results as ever.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from djinn_fx.engines.base import Arguments, RegionCallable

#: The function, by the name under which generated code calls it.
_TAKES = "empty_strided_cpu"


def writing_into(run: RegionCallable) -> RegionCallable:
    """A compiled region that writes results into memory where some is offered (:class:`Arguments`)."""
    found: list[_Allocations | None] = []

    def call(args: list[Any]) -> Sequence[Any]:
        if not isinstance(args, Arguments):
            return run(args)
        if not found:
            found.append(_allocations(run))
        given, into = list(args), args.into
        args.clear()
        return run(given) if found[0] is None else found[0].offering(into, run, given)

    return call


def _allocations(run: Any) -> _Allocations | None:
    """Those of the generated code behind a callable; None where there is none of the form that is known here."""
    while run is not None:
        generated = getattr(run, "current_callable", None)
        if generated is not None:
            return _of_module(getattr(getattr(generated, "__func__", generated), "__globals__", {}))
        run = getattr(run, "__wrapped__", None)
    return None


def _of_module(module: dict[str, Any]) -> _Allocations | None:
    known = module.get(_TAKES)
    if isinstance(known, _Allocations):
        return known
    takes: Any = getattr(torch._C._dynamo.guards, f"_{_TAKES}", None)
    if known is None or known is not takes:
        return None
    try:
        numbers = numbers_of(Path(str(module.get("__file__"))).read_text())
    except (OSError, SyntaxError, ValueError):
        return None
    module[_TAKES] = made = _Allocations(takes, numbers)
    return made


def numbers_of(source: str) -> dict[int, int]:
    """By result of a module's function, the number of the allocation that it lies in; without those in none.

    Args:
        source: the module's text.

    Raises:
        ValueError: not every statement of the function is run once, or there is no such function.
    """
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    body = next((one.body for one in functions if one.name == "call"), None)
    if body is None or any(isinstance(node, (ast.If, ast.For, ast.While, ast.Try)) for node in _within(body)):
        raise ValueError("not one statement after the other")
    lies: dict[str, int] = {}
    count, found = 0, dict[int, int]()
    for statement in body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            lies.pop(name, None)
            source_name = _base(statement.value)
            if source_name == _TAKES:
                lies[name] = count
            elif source_name in lies:
                lies[name] = lies[source_name]
        elif isinstance(statement, ast.Return) and isinstance(statement.value, ast.Tuple):
            results = [_base(one) for one in statement.value.elts]
            found = {place: lies[name] for place, name in enumerate(results) if name in lies}
        count += sum(isinstance(node, ast.Call) and _base(node) == _TAKES for node in ast.walk(statement))
    return found


def _within(body: Sequence[ast.stmt]) -> list[ast.AST]:
    return [node for statement in body for node in ast.walk(statement)]


def _base(value: ast.expr) -> str | None:
    """What an expression is another name for: of an allocation, the function's name."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        if value.func.id == "reinterpret_tensor" and value.args:
            return _base(value.args[0])
        return value.func.id if value.func.id == _TAKES else None
    return value.id if isinstance(value, ast.Name) else None


class _Call(threading.local):
    """What a thread's call is doing now.

    Attributes:
        offered: by number of the allocation; None: nothing is offered in this call.
        count: allocations so far.
    """

    offered: Mapping[int, torch.Tensor] | None = None
    count = 0


class _Allocations:
    """Stands for the function by which a module of generated code takes memory.

    Args:
        takes: the function itself.
        numbers: by result, which allocation it lies in.
    """

    def __init__(self, takes: Callable[[Any, Any, Any], torch.Tensor], numbers: Mapping[int, int]) -> None:
        self._takes, self._numbers, self._now = takes, numbers, _Call()

    def __call__(self, size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
        """Memory as generated code asks for it."""
        now = self._now
        if now.offered is None:
            return self._takes(size, stride, dtype)
        offer = now.offered.get(now.count)
        now.count += 1
        made = _shaped(offer, size, stride, dtype) if offer is not None else None
        return made if made is not None else self._takes(size, stride, dtype)

    def offering(self, into: Mapping[int, torch.Tensor], run: RegionCallable, args: list[Any]) -> Sequence[Any]:
        """A call of the region, which is offered memory by result."""
        now = self._now
        if now.offered is not None:  # this thread is in the same code already
            return run(args)
        now.offered = {self._numbers[place]: offer for place, offer in into.items() if place in self._numbers}
        now.count = 0
        try:
            return run(args)
        finally:
            now.offered = None


def _shaped(offer: torch.Tensor, size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor | None:
    """The offered memory as it is asked for; None if it is of another type or too small."""
    reach = 1 + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if offer.dtype is not dtype or 0 in size or reach * dtype.itemsize > offer.untyped_storage().nbytes():
        return None
    return torch.as_strided(offer, size, stride, 0)
