"""Compiling a model to see what is decided about it, for reports and tests."""

from __future__ import annotations

import contextlib
import statistics
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._dynamo.utils import counters, get_compilation_metrics
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from djinn_fx.calibrate.live_memory import measured
from djinn_fx.calibrate.timing import timed
from djinn_fx.compiling.captured import CapturedGraph, CaptureResult
from djinn_fx.compiling.choice import passes_for
from djinn_fx.compiling.devices.modules import check_pins
from djinn_fx.compiling.graph import GraphCompiler
from djinn_fx.compiling.graph_inputs import input_kinds
from djinn_fx.compiling.readiness import GraphHandle
from djinn_fx.dispatch.entrant import DispatchStatus
from djinn_fx.settings.table import Settings

#: A trial is over after so many calls; who is slow is not waited for.
SETTLING_CALLS, SETTLING_S, TIMED_S = 40, 10.0, 2.0
#: So many calls are timed at least.
LEAST_TIMED = 5
#: Arguments that no call changes, though they have attributes; tensors are written to at most.
_LASTING = (torch.Tensor, torch.nn.Module, type, types.FunctionType)

#: The arguments of one call.
Given = tuple[tuple[Any, ...], Mapping[str, Any]]


class Recorder:
    """A backend of torch.compile that plans each graph it gets and keeps what came of it.

    Args:
        settings: those of djinn.
        build: also build the regions; otherwise the graphs run eagerly.

    Attributes:
        graphs: what was planned, in order.
        handles: of each of Dynamo's graphs.
        breaks: why Dynamo split the code, with the user's file:line.
    """

    def __init__(self, settings: Settings, *, build: bool) -> None:
        self._settings, self._build = settings, build
        self.graphs: list[CapturedGraph] = []
        self.handles: list[GraphHandle] = []
        self.breaks: list[str] = []

    def __call__(self, gm: GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        """Plan one graph."""
        reason = getattr(gm, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            frame = next(iter(reversed(reason.user_stack or [])), None)
            where = f" at {frame.filename}:{frame.lineno}" if frame is not None else ""
            self.breaks.append(f"{reason.reason.strip().splitlines()[0]}{where}")
        self.handles.append(GraphHandle(gm, (), example_inputs))
        check_pins(self._settings)
        compiler = GraphCompiler(
            self._settings,
            passes_for(self._settings),
            input_kinds(gm, example_inputs),
            self.handles[-1],
            note=self.graphs.append,
            builds=self._build,
            keeps=False,
        )
        return compiler.through_aot(gm, example_inputs)

    @property
    def contests(self) -> tuple[DispatchStatus, ...]:
        """The graphs for which engines compete, as they stand."""
        return tuple(contest.status() for handle in self.handles for contest in handle.contests)


def capture_graphs(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    settings: Settings | None,
    build: bool,
    dynamic: bool | None,
    again: Callable[[], Given] | None = None,
) -> CaptureResult:
    """See :func:`djinn_fx.backend.capture`."""
    recorder = Recorder(settings if settings is not None else Settings.load(), build=build)
    torch._dynamo.reset()
    left = LeftToPython()
    output, live, seconds, first_s, failed = None, None, None, None, None
    try:
        compiled = torch.compile(model, backend=recorder, dynamic=dynamic)
        began = time.perf_counter()
        output = compiled(*args, **kwargs)
        first_s = time.perf_counter() - began
        if again is not None and not torch.is_grad_enabled():
            live, seconds = _of_further_calls(compiled, model, again)
    except Exception as error:
        if not recorder.graphs:
            raise
        failed = error
    finally:
        contests = recorder.contests
        torch._dynamo.reset()
    breaks = [*recorder.breaks, *left.reasons(recorder.breaks)]
    return CaptureResult(
        graphs=tuple(recorder.graphs),
        graph_breaks=tuple(dict.fromkeys(breaks)),
        output=output,
        contests=contests,
        live_bytes=live,
        call_s=seconds,
        first_s=first_s,
        error=failed,
    )


class LeftToPython:
    """The functions that Dynamo from now on leaves to Python whole, since a break in them cannot be gone around."""

    def __init__(self) -> None:
        self._frames = get_compilation_metrics()
        self._texts = set(counters["unimplemented"])

    def reasons(self, told: Sequence[str]) -> list[str]:
        """Why, with the user's file:line; nothing on a line that was told already."""
        texts = [text for text in counters["unimplemented"] if text not in self._texts]
        frames = [one for one in get_compilation_metrics() if not any(one is known for known in self._frames)]
        failed = [one for one in frames if one.fail_type == "Unsupported"]
        if told:
            return [
                f"{_in_a_line(one.fail_reason or '')}{place}"
                for one in failed
                if (place := _place(one)) and not any(reason.endswith(place) for reason in told)
            ]
        if len(failed) == 1 and texts:  # the first is the cause, others came of it
            return [f"{_in_a_line(texts[0])}{_place(failed[0])}"]
        return [f"{_in_a_line(one.fail_reason or '')}{_place(one)}" for one in failed] or list(map(_in_a_line, texts))


def _place(frame: Any) -> str:
    where = frame.fail_user_frame_filename
    return f" at {where}:{frame.fail_user_frame_lineno}" if where else ""


def _in_a_line(text: str) -> str:
    """What Dynamo does not do, and its first hint, of a message of many lines."""
    lines = [line.strip() for line in text.splitlines()]
    hint = next((line.partition("Hint:")[2] for line in lines if line.startswith("Hint:")), "")
    return f"{lines[0]}:{hint}" if hint else lines[0]


def _of_further_calls(
    compiled: Callable[..., Any], model: Callable[..., Any], fresh: Callable[[], Given]
) -> tuple[int | None, float | None]:
    """The most bytes of tensors that a call has in memory, weights and arguments too, and seconds of a settled call.

    Neither is measured where tensors are not on the CPU. The model's buffers are left as they were.
    """
    args, kwargs = fresh()
    kept = [*model.parameters(), *model.buffers()] if isinstance(model, torch.nn.Module) else []
    held = [one for one in (*pytree.tree_leaves((args, kwargs)), *kept) if isinstance(one, torch.Tensor)]
    if any(one.device.type != "cpu" for one in held):
        return None, None

    def run(given: list[Any]) -> Any:
        given.clear()
        return compiled(*args, **kwargs)

    with buffers_kept(model):
        return measured(run, held).peak, settled_seconds(compiled, fresh)


def settled_seconds(model: Callable[..., object], fresh: Callable[[], Given]) -> float:
    """The median of some calls, after so many that engines have been compared.

    Args:
        model: what is called.
        fresh: makes the arguments of a call. Objects, such as a cache of keys, may be changed by a call, so that each
            call is given its own; making them is not timed.
    """
    args, kwargs = fresh()
    renewed = any(
        hasattr(one, "__dict__") and not isinstance(one, _LASTING) for one in pytree.tree_leaves((args, kwargs))
    )
    end = time.monotonic() + SETTLING_S
    for _ in range(SETTLING_CALLS):
        if renewed:
            args, kwargs = fresh()
        model(*args, **kwargs)
        if time.monotonic() > end:
            break
    if not renewed:
        return timed(lambda: model(*args, **kwargs), TIMED_S).median_s
    seconds: list[float] = []
    while len(seconds) < LEAST_TIMED or sum(seconds) < TIMED_S:
        args, kwargs = fresh()
        start = time.perf_counter()
        model(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@contextlib.contextmanager
def buffers_kept(model: Callable[..., Any]) -> Iterator[None]:
    """Put the buffers' values back afterwards (running statistics, caches)."""
    buffers = list(model.buffers()) if isinstance(model, torch.nn.Module) else []
    saved = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
