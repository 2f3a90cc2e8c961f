"""One model's graphs, each with the peak that was foretold and the one that was measured. Runs in a child process.

The process peak is how far the resident memory of a warmed process rises during one more call: what can be given back
to the system is given back before, and the kernel's own high-water mark is set back.
"""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.cost.models import FAMILIES, Call, called, make_model
from bench.memory.graphs import Built, built
from djinn_fx.calibrate.live_memory import measured
from djinn_fx.costmodels.memory.allocators import holes_of_heap, live_increase, process_increase
from djinn_fx.pool.procfs import give_back, peak_bytes, resident_bytes
from djinn_fx.units import format_bytes

Found = dict[str, Any]

#: Calls before anything is measured: libraries make their buffers and code in the first ones.
_WARMING = 3
#: Measured calls; the middle one counts.
_TIMES = 5


@dataclass(frozen=True)
class Work:
    """What is measured together.

    Attributes:
        family: of :data:`bench.cost.models.FAMILIES`.
        call: number of its call.
        training: a training step instead of inference.
        engine: which runs it.
    """

    family: str
    call: int
    training: bool
    engine: str

    def __str__(self) -> str:
        step = "train" if self.training else str(FAMILIES[self.family].calls[self.call])
        return f"{self.family}/{step} {self.engine}"


def measure(family: str, call: int, training: bool, engine: str) -> list[Found]:
    """The graphs of one call of one model."""
    work = Work(family, call, training, engine)
    return [_measured(work, one) for one in graphs_of(work)]


def graphs_of(work: Work) -> list[Built]:
    """The graphs of one call, built and called once."""
    known, model = FAMILIES[work.family], make_model(work.family)
    one: Call = known.calls[work.call]
    with torch.no_grad():
        module, inputs = called(model, known, one)
    if not work.training:
        return built(module, inputs, {}, work.engine)
    return built(module.train(), inputs, {}, work.engine, loss_of=lambda output: output.float().pow(2).mean())


def _measured(work: Work, graph: Built) -> Found:
    srg, plan = graph.captured.srg, graph.plan
    peak = plan.peak("cpu")
    with torch.no_grad():
        foretold, risen = _rises(graph)
        truth = measured(graph.run, graph.args, graph.given_away)
    return {
        "graph": f"{work} {srg.kind.value}",
        "family": work.family,
        "kind": srg.kind.value,
        "engine": work.engine,
        "ops": len(plan.steps),
        "live": {"foretold": peak.nbytes, "measured": truth.peak},
        "rise": {"foretold": live_increase(plan, "cpu"), "measured": truth.peak - truth.held},
        "process": {"foretold": foretold, "measured": risen},
        "at": f"{peak.at.op} ({peak.at.source})" if peak.at else "",
        "biggest": [f"{row.name} {format_bytes(row.nbytes)} {row.holds.value}" for row in peak.biggest],
    }


def _rises(graph: Built) -> tuple[int, int]:
    """By how many bytes resident memory is expected to rise during a call, and does: the middle ones of some calls."""
    foretold, found = [], []
    for turn in range(_WARMING + _TIMES):
        given = given_to(graph)
        gc.collect()
        give_back()
        holes = holes_of_heap(_malloc_info())
        before = resident_bytes(os.getpid())
        Path("/proc/self/clear_refs").write_text("5")
        result = graph.run(given)
        risen = peak_bytes(os.getpid()) - before
        if turn >= _WARMING:
            found.append(risen)
            foretold.append(process_increase(graph.plan, "cpu", holes))
        del result
    return sorted(foretold)[_TIMES // 2], sorted(found)[_TIMES // 2]


def _malloc_info() -> str:
    """What glibc says of its heaps."""
    library = ctypes.CDLL(None)
    library.fopen.restype = ctypes.c_void_p
    with tempfile.NamedTemporaryFile() as file:
        stream = ctypes.c_void_p(library.fopen(file.name.encode(), b"w"))
        library.malloc_info(0, stream)
        library.fclose(stream)
        return Path(file.name).read_text()


def given_to(graph: Built) -> list[Any]:
    """What to call a graph with; what only the call holds is copied."""
    given = list(graph.args)
    for place in graph.given_away:
        if isinstance(given[place], torch.Tensor):
            given[place] = given[place].clone()
    return given


def works(families: Sequence[str], engine: str, training: bool, most: int = 1) -> list[Work]:
    """What there is to measure: each family's first calls, or a training step, for which a decode is no call."""
    if not training:
        return [
            Work(name, at, False, engine) for name in families for at in range(min(most, len(FAMILIES[name].calls)))
        ]
    plain = {name: [at for at, one in enumerate(FAMILIES[name].calls) if one.way != "decode"] for name in families}
    return [Work(name, places[0], True, engine) for name, places in plain.items() if places]
