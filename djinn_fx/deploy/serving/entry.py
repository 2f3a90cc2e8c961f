"""A model's ``entry``: ``package.module:name``, which is a module, or makes one.

What it names is a ``torch.nn.Module``, a function that returns one, or a function that returns one and a second
function ``prepare(data, results)``: what the module is called with, a tuple, from a request's own data and the results
of the nodes before. Without that the module gets the results in the order of their nodes, or, where there are none, the
request's data under ``"inputs"``: a tensor, a number, lists of numbers, or a list of such.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.errors import ModelFailedError, ModelFileError, useful_line

Prepare = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Any, ...]]


def _as_they_come(data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[Any, ...]:
    """Results of the nodes before, or the request's own inputs."""
    if results:
        return tuple(results.values())
    inputs = data.get("inputs", ())
    return tuple(map(_tensor, inputs)) if isinstance(inputs, (list, tuple)) else (_tensor(inputs),)


def _tensor(value: Any) -> Any:
    """Numbers as a tensor, as they stand in a file; everything else as it is."""
    return torch.tensor(value) if isinstance(value, (int, float, list)) else value


@dataclass(frozen=True)
class Entry:
    """A loaded model.

    Attributes:
        module: in evaluation mode.
        prepare: what it is called with.
    """

    module: torch.nn.Module
    prepare: Prepare = _as_they_come

    def answer(self, data: Mapping[str, Any], results: Mapping[str, Any]) -> Any:
        """Run one node.

        Args:
            data: the request's own.
            results: of the nodes before, by name.
        """
        with torch.no_grad():
            return self.module(*self.prepare(data, results))


def load_entry(text: str) -> Entry:
    """Import what an entry names, and make its module.

    Raises:
        ModelFileError: there is no such module or name, or it makes no ``nn.Module``.
        ModelFailedError: its own code fails.
    """
    where, colon, name = text.partition(":")
    if not (where and colon and name):
        raise ModelFileError(f"entry {text!r}: write it as package.module:name")
    try:
        found = getattr(importlib.import_module(where), name)
    except (ImportError, AttributeError) as error:
        raise ModelFileError(f"entry {text!r}: {useful_line(error)}") from error
    try:
        made = found if isinstance(found, torch.nn.Module) else found()
    except Exception as error:
        raise ModelFailedError(f"entry {text!r} fails: {useful_line(error)}") from error
    module, prepare = made if isinstance(made, tuple) and len(made) == 2 else (made, _as_they_come)
    if not isinstance(module, torch.nn.Module) or not callable(prepare):
        raise ModelFileError(f"entry {text!r} gives {type(module).__name__}, which is no torch.nn.Module")
    return Entry(module.eval(), prepare)
