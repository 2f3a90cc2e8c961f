"""The process that measures: one case a line on stdin, one JSON line on stdout for each engine that was asked for.

It is a process of its own so that an engine that dies takes one case with it, and nothing else is running beside it.
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import torch

from djinn_fx.calibrate.cases.all import all_cases
from djinn_fx.calibrate.cases.case import Case
from djinn_fx.calibrate.program import Traced, traced
from djinn_fx.calibrate.timing import Canary, timed_quietly
from djinn_fx.costmodels.profile import Sample
from djinn_fx.dispatch.build import Builder
from djinn_fx.dispatch.region import RegionWork
from djinn_fx.engines.registry import engine
from djinn_fx.errors import EngineError
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.plan import Plan


def measured(case: Case, made: Traced, name: str, threads: int, budget_s: float, canary: Canary) -> Sample:
    """Run a traced case on an engine and time it.

    Raises:
        EngineError: the engine does not take the case; the message says why.
    """
    torch.set_num_threads(threads)
    run = callable_of(name, made)
    arguments = list(made.arguments)
    device = arguments[0].device.type

    def call() -> None:
        run(list(arguments))

    finish = torch.cuda.synchronize if device == "cuda" else None
    with torch.no_grad():
        found = timed_quietly(call, budget_s, canary, finish)
    return Sample(
        engine=name,
        threads=threads,
        label=case.name,
        family=case.family,
        device=device,
        graph=made.work,
        time_s=found.median_s,
        spread=found.spread,
    )


def callable_of(name: str, made: Traced) -> Callable[[list[Any]], Sequence[Any]]:
    """The engine's callable for a traced case, got as the product gets it: through its cache.

    Raises:
        EngineError: the engine does not take the case; the message says why.
    """
    settings = Settings(engine=name, compile="blocking", progress=False)
    if name == EAGER:
        eager = engine(name, settings)
        return eager.load(eager.compile(made.graph))
    plan = Plan(regions=(made.region,), order=(0,))
    work = RegionWork.of(made.srg, plan, made.region)
    found = Builder(settings, mode="blocking").each(work, [name])
    if not found:
        raise EngineError("; ".join(reason.detail for reason in work.reasons) or f"{name} takes no such graph")
    return found[0].loaded.run


def serve(source: TextIO, sink: TextIO) -> None:
    """Measure the cases that come in, one JSON object a line, until there are no more."""
    cases = {case.name: case for case in all_cases()}
    canary = Canary()
    for line in source:
        asked = json.loads(line)
        case, made = cases[asked["case"]], None
        for run in asked["runs"]:
            begin = time.perf_counter()
            told: dict[str, Any] = {"sample": None, "why": "", "refused": False}
            try:
                made = traced(case.make()) if made is None else made
                found = measured(case, made, run["engine"], run["threads"], asked["budget_s"], canary)
                told["sample"] = found.to_json()
            except EngineError as error:
                told |= {"why": str(error)[:300], "refused": True}
            except Exception as error:  # noqa: BLE001  (told to the parent, which reports it)
                told["why"] = f"{type(error).__name__}: {error}"[:300]
            sink.write(json.dumps({**told, "seconds": time.perf_counter() - begin}) + "\n")
            sink.flush()
            gc.collect()


def _own_stdout() -> TextIO:
    """Stdout for the parent alone: what libraries print goes to stderr."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return io.TextIOWrapper(os.fdopen(kept, "wb"), encoding="utf-8")


if __name__ == "__main__":
    serve(sys.stdin, _own_stdout())
