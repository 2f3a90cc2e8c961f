"""Capture a found model and make the report."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from djinn_fx.compiling.capture import buffers_kept, settled_seconds
from djinn_fx.dispatch.tier import tier_names
from djinn_fx.errors import DjinnError, ModelFailedError
from djinn_fx.explain.check import compare, copy_inputs, is_random, results, run_eager
from djinn_fx.explain.detail.stored import stored
from djinn_fx.explain.finding.file import as_command, beside, checked_path, first_line
from djinn_fx.explain.finding.model import FoundModel
from djinn_fx.explain.finding.script import run_script
from djinn_fx.explain.finding.weightless import for_lack_of_values, is_out_of_memory
from djinn_fx.explain.gather import Examined, examined, graph_inputs, input_texts, joined, model_info, name_of
from djinn_fx.explain.report import Check, Report
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.record import GraphKind

if TYPE_CHECKING:
    from djinn_fx.compiling.captured import CaptureResult

_USER_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def examine(
    found: Sequence[FoundModel],
    settings: Settings,
    *,
    build: bool = False,
    training: bool = False,
    dynamic: bool = False,
    find_s: float = 0.0,
    stage: Callable[[str], object] = str,
    words: Sequence[str] = (),
) -> Report:
    """Capture the model in each of its scenarios and report what was decided.

    Args:
        found: the model and one call's arguments, for each scenario.
        settings: as for ``torch.compile``.
        build: also build the regions, run the result and compare it with eager.
        training: in training mode with a backward graph, else in evaluation mode without gradients.
        dynamic: every size may vary, as with ``torch.compile(dynamic=True)``.
        find_s: seconds that finding it took.
        stage: is told what it is at.
        words: of the command line, to be repeated in the one that is told.

    Raises:
        ModelFailedError: the model fails or cannot be captured; the message names the user's line.
    """
    first = found[0]
    info = model_info(
        [one.module for one in found],
        file=first.file,
        attr=first.attr,
        rule=first.rule if len(found) == 1 else first.made,
        mode="training" if training else "inference",
        words=words,
    )
    several, made = len(found) > 1, []
    for one in found:
        stage(f"{'building and running' if build else 'capturing'} {info.name} {one.scenario}".rstrip())
        made.append(_scenario(one, settings, build, training, dynamic, several))
    return joined(info, made, find_s)


def examine_script(
    shown: str, args: Sequence[str], settings: Settings, *, build: bool = False, words: Sequence[str] = ()
) -> Report:
    """Run a script and report on what it gives to torch.compile, a scenario each.

    Raises:
        ModelFileError: there is no such file.
        ModelFailedError: it raises, or calls nothing that is compiled.
    """
    began = time.perf_counter()
    if build:
        settings = settings.model_copy(update={"compile": "blocking"})
    run = run_script(shown, args, settings, build=build)
    spent_s = time.perf_counter() - began
    engine = next(iter(tier_names(settings)), EAGER)
    path = str(checked_path(shown))
    several = len(run.called) > 1
    scenarios = [
        examined(
            name_of(one.model, one.name),
            one.recorder.graphs,
            [reason.replace(path, shown) for reason in dict.fromkeys(one.recorder.breaks)],
            engine=engine,
            name=one.name if several else "",
            rule="a call of the script",
            inputs=graph_inputs(one.recorder.graphs[0]),
        )
        for one in run.called
    ]
    training = any(graph.srg.kind is not GraphKind.INFERENCE for one in run.called for graph in one.recorder.graphs)
    count = len(run.called)
    info = model_info(
        [one.model for one in run.called],
        file=shlex.join(["--exec", shown, *(["--", *args] if args else [])]),
        attr="",
        rule=f"{count} part{'' if count == 1 else 's'} that it gives to torch.compile, of {len(run.compiled)}",
        mode="training" if training else "inference",
        words=words,
    )
    return joined(info, scenarios, spent_s)


def _scenario(
    found: FoundModel, settings: Settings, build: bool, training: bool, dynamic: bool, several: bool
) -> Examined:
    try:
        return _examined(found, settings, build, training, dynamic)
    except ModelFailedError as error:
        if not several or for_lack_of_values(error):
            raise
        return examined(
            name_of(found.module, found.attr),
            (),
            name=found.scenario,
            rule=found.given or found.rule,
            inputs=_inputs(found),
            rung=found.rung,
            failed=str(error),
        )


def _inputs(found: FoundModel) -> dict[str, str]:
    """What it is given, in words: as it was typed, where it was."""
    texts = input_texts(found.module, found.args, found.kwargs)
    positional = iter(texts)
    return {**texts, **{one.name or next(positional): str(one) for one in found.typed}}


def _examined(found: FoundModel, settings: Settings, build: bool, training: bool, dynamic: bool) -> Examined:
    began, expected = time.perf_counter(), None
    with _quiet(), beside(found.path), _mode(found, training), found.values_aside(), found.on_the_described_device():
        if build:
            expected = _eager(found)
            # Who asks what a build made of the model wants to wait for it.
            settings = settings.model_copy(update={"compile": "blocking"})
        result = _capture(found, settings, build, dynamic)
        if result.error is not None and not _partial(found, result.error):
            raise _failure(found, result.error) from result.error
        if not result.graphs:
            raise ModelFailedError(_nothing_captured(found, result.graph_breaks))
        check = _check(found, expected, result, settings.precision) if build else None
    return examined(
        name_of(found.module, found.attr),
        result.graphs,
        [reason.replace(str(found.path), found.file) for reason in result.graph_breaks],
        check,
        engine=next(iter(tier_names(settings)), EAGER),
        name=found.scenario,
        rule=found.given or found.rule,
        inputs=_inputs(found),
        rung=found.rung,
        partial=_line_of(result.error, found) or found.file if result.error is not None else None,
        capture_s=time.perf_counter() - began,
        first_s=result.first_s if build else None,
        contests=result.contests,
        expected_calls=settings.expected_calls,
        lookups=() if build else stored(result.graphs, settings),
    )


def _partial(found: FoundModel, error: Exception) -> bool:
    """Whether what was captured is worth a report: the rest needs values, which there are none of."""
    return found.faker is not None and for_lack_of_values(error)


def _capture(found: FoundModel, settings: Settings, build: bool, dynamic: bool) -> CaptureResult:
    from djinn_fx.backend import capture

    args, kwargs = copy_inputs(found.args, found.kwargs)
    found.mark_sizes(args, kwargs)
    try:
        return capture(
            found.module,
            args,
            kwargs,
            settings=settings,
            build=build,
            dynamic=dynamic or None,
            again=(lambda: copy_inputs(found.args, found.kwargs)) if build else None,
        )
    except Exception as error:
        raise _failure(found, error) from error


def _failure(found: FoundModel, error: Exception) -> DjinnError:
    """What to raise; if the model itself is wrong, its own error says it best, and is raised here."""
    cause = getattr(error, "inner_exception", None) or error
    if isinstance(cause, DjinnError):
        return type(cause)(f"{found.file}: {found.attr}: {cause}")
    if found.faker is not None and for_lack_of_values(error):
        where = _line_of(error, found) or found.file
        command = as_command(found.file, found.attr, "--real")
        return ModelFailedError(f"{where}: {found.attr} cannot be captured without values; {command} runs it")
    with torch.no_grad():
        _eager(found)
    return ModelFailedError(_capture_failed(found, error, cause))


def _eager(found: FoundModel) -> object:
    try:
        return run_eager(found.module, found.args, found.kwargs)
    except Exception as error:
        where = _line_of(error, found) or found.file
        what = f"{where}: {type(error).__name__}: {first_line(error).replace('FakeTensor', 'Tensor')}"
        if is_out_of_memory(error):
            raise ModelFailedError(f"{what} (the model needs more memory; {found.rule})") from error
        raise ModelFailedError(f"{what} (the model itself fails, before anything is compiled; {found.rule})") from error


def _check(found: FoundModel, expected: object, result: CaptureResult, precision: str) -> Check:
    if result.output is None:
        return Check(equal=None, max_difference=0.0, rtol=0.0, atol=0.0, note="the model returned nothing to compare")
    rounding = {
        one.engine: one.rounding for contest in result.contests for one in contest.entrants if one.rounding is not None
    }
    check = replace(
        compare(expected, results(found.module, result.output), precision),
        rounding=rounding,
        live_bytes=result.live_bytes,
        foretold_bytes=max((one.plan.peak_bytes for one in result.graphs), default=0),
        call_s=result.call_s,
        eager_s=_eager_seconds(found) if result.call_s is not None else None,
    )
    if not check.equal and is_random(found.module, found.args, found.kwargs, expected):
        return replace(check, equal=None, note="not comparable: two eager runs differ as well (random numbers)")
    return check


def _eager_seconds(found: FoundModel) -> float:
    with buffers_kept(found.module):
        return settled_seconds(found.module, lambda: copy_inputs(found.args, found.kwargs))


@contextlib.contextmanager
def _mode(found: FoundModel, training: bool) -> Iterator[None]:
    module = found.module
    if isinstance(module, nn.Module):
        module.train(training)
    with torch.set_grad_enabled(training), _backward_too() if training else contextlib.nullcontext():
        yield


def _backward_too() -> contextlib.AbstractContextManager[None]:
    """AOTAutograd hands over the backward graph at once, not when a backward pass first runs."""
    import torch._functorch.config as config

    known = hasattr(config, "force_non_lazy_backward_lowering")
    return config.patch(force_non_lazy_backward_lowering=True) if known else contextlib.nullcontext()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks torch logs when a fake op fails: what went wrong is said once, by us."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    if os.environ.get("DJINN_DEBUG") != "1":
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _nothing_captured(found: FoundModel, graph_breaks: tuple[str, ...]) -> str:
    why = "\n".join(f"    {reason}" for reason in graph_breaks) or (
        "    it runs no tensor operation, or compiling it is disabled (torch.compiler.disable)"
    )
    return f"{found.file}: {found.attr}: nothing was captured:\n{why}"


def _capture_failed(found: FoundModel, error: BaseException, cause: BaseException) -> str:
    where = _line_of(cause, found) or _line_of(error, found) or found.file
    return (
        f"{where}: {found.attr} cannot be captured: {type(cause).__name__}: {first_line(cause)}\n"
        f"It runs in eager mode. TORCH_LOGS=graph_breaks shows what Dynamo met; --debug the whole traceback."
    )


def _line_of(error: BaseException, found: FoundModel) -> str | None:
    """The user's file:line: from Dynamo's own user stack if it has one, else from the traceback."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    frames += [(match["file"], int(match["line"])) for match in _USER_FRAME.finditer(str(error))]
    frames += [(frame.filename, frame.lineno) for frame in getattr(error, "real_stack", None) or ()]
    inside = [line for file, line in frames if Path(file) == found.path]
    return f"{found.file}:{inside[-1]}" if inside else None
