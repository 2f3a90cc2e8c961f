"""What the engines' bench asks of saved functions: one process saves, a fresh one loads, calls, tells the seconds.

save(work.module, work.inputs, path, options)      in a process of its own
first_call(work.module, work.inputs, path)         in a fresh process, to be held against eager's first call there
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from djinn_fx.saved.guards import saveable_guards


class FirstCall(NamedTuple):
    """Seconds to load a function and to call it first, and the answer."""

    load_s: float
    call_s: float
    answer: Any


def save(module: torch.nn.Module, inputs: tuple[Any, ...], path: Path, options: Mapping[str, Any]) -> float:
    """Compile a module's forward ahead of time and save it; the seconds that took."""
    start = time.perf_counter()
    given = {**options, "guard_filter_fn": saveable_guards}
    compiled: Any = torch.compile(module, backend="djinn", fullgraph=True, options=given)
    compiled.forward.aot_compile((inputs, {})).save_compiled_function(str(path))
    return time.perf_counter() - start


def import_what_is_loaded(*, inductor: bool = False) -> None:
    """Make this process a warm one: torch's part of loading imports Dynamo, one to two seconds whatever the model."""

    import djinn_fx.saved.file  # noqa: F401

    if inductor:
        from djinn_fx.engines.inductor.engine import import_runtime

        import_runtime()


def first_call(module: torch.nn.Module, inputs: tuple[Any, ...], path: Path) -> FirstCall:
    """Load a saved function and call it once, under the grad mode and thread count it was saved under."""
    start = time.perf_counter()
    with path.open("rb") as file:
        function: Any = torch.compiler.load_compiled_function(file)
    loaded = time.perf_counter()
    answer = function(module, *inputs)
    return FirstCall(loaded - start, time.perf_counter() - loaded, answer)
