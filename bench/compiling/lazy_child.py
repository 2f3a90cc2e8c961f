"""What bench/compiling/lazy.py measures, each function in a process of its own."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

from bench.harness.measuring import no_gc
from bench.harness.models import build

# This bench is about when Inductor's regions are built; bench/engines/engines.py is about the choice between engines.
os.environ.setdefault("DJINN_ENGINE", "inductor")

Found = dict[str, Any]

#: Builders that get no processor beside calls without a pause would never end.
PATIENCE_S = {True: 180.0, False: 60.0}


def first_result(model: str, quick: bool, side: str) -> Found:
    """Seconds from ``torch.compile`` to the first result, and of the call after it."""
    module, inputs, _ = build(model, quick)
    with torch.no_grad():
        module(**inputs)
        options = {"options": {"compile": "background", "progress": False}} if side == "djinn" else {}
        start = time.perf_counter()
        compiled = torch.compile(module, backend=side, **options)
        compiled(**inputs)
        first = time.perf_counter() - start
        start = time.perf_counter()
        compiled(**inputs)
        return {"first_s": first, "second_s": time.perf_counter() - start}


def foreground(model: str, quick: bool, nice: int | None, pause: bool) -> Found:
    """Seconds of calls without builds, then while all regions are built, then when all is ready.

    The calls without builds run the same code, the regions' own ops: nothing has been submitted then. With ``pause``
    each call is followed by as long a pause; without, the calls leave the builders next to no processor.
    """
    import djinn_fx
    from djinn_fx.backend import compilations

    patience_s = PATIENCE_S[pause]
    if nice is not None:
        _children_at(nice)
    module, inputs, _ = build(model, quick)
    with torch.no_grad():
        module(**inputs)  # the very first call may round otherwise than all later ones
        expected = module(**inputs)[0]
        compiled = torch.compile(module, backend="djinn", options={"compile": "lazy", "progress": False})
        compiled(**inputs)
        _planned(compiled)
        wrong = 0

        def call() -> float:
            nonlocal wrong
            start = time.perf_counter()
            result = compiled(**inputs)[0]
            seconds = time.perf_counter() - start
            wrong += not torch.allclose(result, expected, rtol=1e-4, atol=1e-4)
            time.sleep(seconds if pause else 0.0)
            return seconds

        with no_gc():
            for _ in range(3):
                call()
            without = _for_seconds(call, 3.0 if quick else 20.0)
            began = time.perf_counter()
            djinn_fx.wait_until_ready(compiled, 0.0)
            during = []
            while _pending(compiled) and time.perf_counter() - began < (6.0 if quick else patience_s):
                during.append(call())
            build_s = time.perf_counter() - began
            after = _for_seconds(call, 1.0 if quick else 10.0)
        (graph,) = compilations()
        status = djinn_fx.status(compiled)
    from djinn_fx.pool.supervisor import shared_pool

    return {
        "without": without, "during": during, "after": after, "build_s": build_s, "wrong": wrong,
        "ready": status.ready, "built": shared_pool().counters.built, "distinct": graph.plan.distinct_regions,
        "regions": len(graph.plan.regions), "repeats": max(region.repeats for region in status.regions),
    }  # fmt: skip


def mode(model: str, quick: bool, compile: str, seconds: float) -> Found:
    """What a user gets done in the first seconds after ``torch.compile``: calls, first result, longest pause."""
    import djinn_fx

    module, inputs, _ = build(model, quick)
    with torch.no_grad():
        module(**inputs)
        options = {"compile": compile, "progress": False}
        start = time.perf_counter()
        compiled = torch.compile(module, backend="djinn", options=options)
        times: list[float] = []
        ready_s: float | None = None
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            compiled(**inputs)
            times.append(time.perf_counter() - before)
            if ready_s is None and djinn_fx.status(compiled).ready:
                ready_s = time.perf_counter() - start
    return {
        "calls": len(times), "first_s": times[0], "longest_later_s": max(times[1:], default=0.0),
        "ready_s": ready_s, "last_s": statistics.median(times[-20:]),
    }  # fmt: skip


def faults(count: int) -> Found:
    """Compile small functions while every builder crashes, hangs or is killed, until ``count`` builds ended so."""
    import djinn_fx
    from bench.compiling import faulty, lazy_faults
    from djinn_fx.dispatch import background
    from djinn_fx.pool.limits import PoolLimits
    from djinn_fx.pool.supervisor import BuildPool

    mark = f"BENCH_MARK={uuid.uuid4().hex}"
    os.environ.update([mark.split("=")])  # children inherit it: that is how an orphan is told
    limits = PoolLimits(children=2, memory_bytes=4_000_000_000)
    pool = BuildPool(limits, workers=lazy_faults.WORKERS, extra_path=faulty.EXTRA_PATH)
    submit = pool.submit

    def submit_briefly(job: Any, **callbacks: Any) -> Any:
        return submit(dataclasses.replace(job, timeout_s=3.0), **callbacks)

    pool.submit = submit_briefly  # type: ignore[method-assign]
    background.shared_pool = lambda: pool  # type: ignore[assignment]
    background.RETRY_S = 0.0
    wrong = calls = stuck = number = 0
    x = torch.randn(8, 8)
    alive: list[Callable[..., Any]] = []
    # All functions have one code object, and Dynamo stops compiling it after eight.
    torch._dynamo.config.recompile_limit = 10 * count
    while _injected(pool) < count and number < 10 * count:
        number += 1
        function = _function(number)
        compiled = torch.compile(function, backend="djinn", options={"compile": "background", "progress": False})
        alive.append(compiled)
        for _ in range(40):
            start = time.perf_counter()
            wrong += not torch.equal(compiled(x), function(x))
            calls += 1
            stuck += calls > 2 and time.perf_counter() - start > 30.0
            time.sleep(0.005)
        djinn_fx.wait_until_ready(compiled, 30.0)
    counters = dataclasses.asdict(pool.counters)
    for compiled, number in zip(alive, range(1, len(alive) + 1), strict=True):
        wrong += not torch.equal(compiled(x), _function(number)(x))
    pool.close()
    time.sleep(1.0)
    return {
        "injected": _injected(pool), "wrong": wrong, "stuck": stuck, "calls": calls, "functions": len(alive),
        "orphans": _alive(mark), "counters": counters,
    }  # fmt: skip


def plan(model: str, quick: bool, dtype: str, target: str) -> Found:
    """Convert a repeated layer and build its TensorRT plan; seconds of CPU, bytes, and a digest of the plan."""
    import hashlib

    from djinn_fx.backend import capture
    from djinn_fx.dispatch.region import region_graph
    from djinn_fx.engines.base import BuildRequest
    from djinn_fx.engines.registry import engine
    from djinn_fx.engines.tensorrt.building import worker
    from djinn_fx.settings.table import Settings

    module, inputs, _ = build(model, quick)
    settings = Settings(engine="tensorrt", target=target)
    with torch.no_grad():
        (graph,) = capture(module.to(getattr(torch, dtype)), (), inputs).graphs
    region = max(
        graph.plan.regions, key=lambda one: sum(r.structural_hash == one.structural_hash for r in graph.plan.regions)
    )
    made = engine("tensorrt", settings)
    convert_s = []
    for _ in range(2):  # the first conversion of a process imports the converter
        graph_of_region = region_graph(graph.srg, region)
        start = time.process_time()
        request = made.request(graph_of_region)
        convert_s.append(time.process_time() - start)
    assert isinstance(request, BuildRequest), str(request)
    start = time.process_time()
    header, payload = worker.build(request.request, request.blobs)
    build_s = time.process_time() - start
    again = worker.build(request.request, request.blobs)[1]
    return {
        "first_convert_cpu_s": convert_s[0],
        "convert_cpu_s": convert_s[1], "build_cpu_s": build_s, "bytes": len(payload), "layers": header.get("layers"),
        "digest": hashlib.sha256(payload).hexdigest(), "same_again": again == payload, "ops": len(region.nodes),
        "version": header.get("version"), "identity": request.identity,
    }  # fmt: skip


def _children_at(nice: int) -> None:
    from djinn_fx.pool.limits import PoolLimits

    default = PoolLimits.default()
    PoolLimits.default = classmethod(lambda cls: dataclasses.replace(default, nice=nice, idle_class=False))  # type: ignore[method-assign, assignment]


def _planned(compiled: Callable[..., Any]) -> None:
    from djinn_fx.compiling.readiness import handles_of

    for handle in handles_of(compiled):
        if handle.graph is not None:
            handle.graph.plan()


def _pending(compiled: Callable[..., Any]) -> bool:
    from djinn_fx.compiling.readiness import handles_of

    return any(region.pending for handle in handles_of(compiled) for region in handle.regions)


def _for_seconds(call: Callable[[], float], seconds: float) -> list[float]:
    until, times = time.perf_counter() + seconds, []
    while time.perf_counter() < until:
        times.append(call())
    return times


def _function(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Another graph for every number. Its form is text: Dynamo would make a number an input of one graph for all."""
    form = format(number, "b")

    def function(x: torch.Tensor) -> torch.Tensor:
        for digit in form:
            x = x.sin() + 1 if digit == "1" else x.cumsum(0)
        return x

    return function


def _injected(pool: Any) -> int:
    counters = pool.counters
    return int(counters.crashed + counters.timed_out + counters.out_of_memory + counters.refused)


def _alive(mark: str) -> int:
    found = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            found += mark.encode() in (folder / "environ").read_bytes()
        except OSError:
            continue
    return found
