"""Where the time of a first call goes.

``Watch`` times functions of djinn-fx while a first call runs. They are wrapped at the moment their module is
imported, so that watching imports nothing by itself: an import that the first call causes stays part of it. Times are
exclusive: of two watched functions, one called by the other, each has its own share, and the sum is right.
Dynamo's and Inductor's shares come from torch's own figures, ``torch._dynamo.utils.compile_times``.
"""

from __future__ import annotations

import functools
import importlib.machinery
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

#: What is watched in djinn-fx, and what its time is called. A name that does not exist is listed as missing.
TARGETS = {
    "djinn_fx.compiling.entry.door:compile_graph": "djinn: other",
    "djinn_fx.compiling.entry.tracing:through_aot": "AOTAutograd",
    "djinn_fx.compiling.graph:GraphCompiler.compile_traced": "djinn: other",
    "djinn_fx.compiling.graph:lower": "djinn: lowering",
    "djinn_fx.compiling.graph:run_passes": "djinn: passes",
    "djinn_fx.dispatch.build:Builder.build": "djinn: region builds",
    "djinn_fx.engines.inductor.engine:InductorEngine.compile": "djinn: region builds",
    "djinn_fx.saved.torch_cache:DjinnGraph.post_compile": "loading from the cache",
}
#: How often this ran is the number of regions compiled.
COMPILES = "djinn_fx.engines.inductor.engine:InductorEngine.compile"

_INDUCTOR_PASSES = ("_recursive_joint_graph_passes", "_recursive_post_grad_passes")
_OURS = ("djinn: lowering", "djinn: passes", "djinn: region builds", "djinn: other")


class Watch:
    """Times the targets, and every import, of the thread that enters it; use as a context manager.

    Attributes:
        calls: of each target, in any thread.
        seconds: exclusive, by what the time is called.
        imports_s: reading modules; part of the times above, not beside them.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.seconds: dict[str, float] = dict.fromkeys(TARGETS.values(), 0.0)
        self.imports_s = 0.0
        self._thread = threading.get_ident()
        self._inner: list[float] = []
        self._importing = False
        self._wrapped: set[str] = set()
        self._exec = importlib.machinery.SourceFileLoader.exec_module

    def __enter__(self) -> Watch:
        watch, original = self, self._exec

        def exec_module(loader: Any, module: ModuleType) -> None:
            watch._import(functools.partial(original, loader, module))
            watch._wrap(module)

        importlib.machinery.SourceFileLoader.exec_module = exec_module  # type: ignore[method-assign, assignment]
        for name in {target.partition(":")[0] for target in TARGETS} & set(sys.modules):
            self._wrap(sys.modules[name])
        return self

    def __exit__(self, *_: object) -> None:
        importlib.machinery.SourceFileLoader.exec_module = self._exec  # type: ignore[method-assign]

    @property
    def missing(self) -> list[str]:
        """Targets whose module was imported and does not have them."""
        return sorted(t for t in TARGETS if t.partition(":")[0] in sys.modules and t not in self._wrapped)

    def _import(self, run: Callable[[], None]) -> None:
        if self._importing or threading.get_ident() != self._thread:
            return run()
        self._importing, start = True, time.perf_counter()
        try:
            return run()
        finally:
            self.imports_s += time.perf_counter() - start
            self._importing = False

    def _wrap(self, module: ModuleType) -> None:
        for target, label in TARGETS.items():
            name, _, path = target.partition(":")
            if name != module.__name__ or target in self._wrapped:
                continue
            *outer, last = path.split(".")
            holder: Any = module
            for part in outer:
                holder = getattr(holder, part, None)
            if holder is not None and callable(vars(holder).get(last)):
                setattr(holder, last, self._timed(target, label, getattr(holder, last)))
                self._wrapped.add(target)

    def _timed(self, target: str, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.calls[target] += 1
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[label] += elapsed - self._inner.pop()
                if self._inner:
                    self._inner[-1] += elapsed

        return timed


def phases(backend: str, total_s: float, watch: Watch) -> dict[str, float]:
    """Seconds of a first call by what they went to; their sum is ``total_s``."""
    times = _compile_times()
    dynamo_s = times.get("_compile.compile_inner", 0.0)
    backend_s = times.get("OutputGraph.call_user_compiler", 0.0)
    found = {"Dynamo": dynamo_s - backend_s}
    found |= _of_djinn(watch, backend_s) if backend == "djinn" else _of_inductor(times, backend_s)
    found["first run, and what is before Dynamo"] = total_s - dynamo_s
    return {name: round(seconds, 4) for name, seconds in found.items()}


def _of_djinn(watch: Watch, backend_s: float) -> dict[str, float]:
    found = dict(watch.seconds)
    found["djinn: other"] += backend_s - sum(found.values())  # importing what the entry point needs
    return {name: found[name] for name in ("AOTAutograd", *_OURS, "loading from the cache")}


def _of_inductor(times: dict[str, float], backend_s: float) -> dict[str, float]:
    compiler_s = sum(s for name, s in times.items() if name.startswith("compile_fx.<locals>."))
    loading_s = times.get("AOTAutogradCache.inductor_load", 0.0)
    parts = {
        "Inductor: graph passes": sum(times.get(name, 0.0) for name in _INDUCTOR_PASSES),
        "Inductor: lowering": times.get("GraphLowering.run", 0.0),
        "Inductor: writing code": times.get("GraphLowering.codegen", 0.0),
        "Inductor: compiling C++ and loading": times.get("PyCodeCache.load_by_key_path", 0.0) if compiler_s else 0.0,
    }
    other_s = compiler_s - sum(parts.values())
    return {
        "AOTAutograd": backend_s - compiler_s - loading_s,
        **parts,
        "Inductor: other": other_s,
        "loading from the cache": loading_s,
    }


def _compile_times() -> dict[str, float]:
    from torch._dynamo.utils import compile_times

    names, seconds = compile_times("csv", aggregate=True)
    return {str(name): float(str(value)) for name, value in zip(names, seconds, strict=True)}
