"""The entry point of ``torch.compile(model, backend="djinn")``. Importing this module is cheap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from djinn_fx.compiling.captured import CapturedGraph, CaptureResult
    from djinn_fx.compiling.readiness import ModelStatus
    from djinn_fx.settings.table import Settings

__all__ = ["capture", "compilations", "compile_exported", "djinn", "reset", "status", "wait_until_ready"]


def djinn(
    gm: torch.fx.GraphModule,
    example_inputs: list[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compile a graph that Dynamo captured. Called by ``torch.compile(..., backend="djinn")``.

    Args:
        gm: Dynamo's graph, parameters lifted to inputs.
        example_inputs: one per placeholder.
        mode: torch.compile's mode; handed to the engine.
        options: settings of djinn, see docs/settings.md.

    Raises:
        SettingsError: an unknown option or a value of the wrong type, before any work.
        EngineError: an engine failed and ``on_failure`` is ``"raise"``.
    """
    from djinn_fx.threads import old_objects_left_alone

    with old_objects_left_alone():
        from djinn_fx.compiling.entry.door import compile_graph
        from djinn_fx.settings.table import Settings

        return compile_graph(gm, example_inputs, Settings.load(mode, options))


def reset() -> None:
    """Forget what this process holds in memory. ``torch.compiler.reset()`` calls it; the disk cache stays."""
    from djinn_fx.compiling.graph import forget

    forget()


# torch._dynamo.reset looks for this attribute on the backends it has used.
djinn.reset = reset  # type: ignore[attr-defined]


def status(model: Callable[..., Any]) -> ModelStatus:
    """What a compiled model runs on now: the state of every engine of every region that is built in the background.

    Args:
        model: what ``torch.compile`` returned, or the module or function that was given to it.
    """
    from djinn_fx.compiling.readiness import status as status_of

    return status_of(model)


def wait_until_ready(model: Callable[..., Any], timeout: float | None = None) -> ModelStatus:
    """Plan and build what is left of a compiled model, whether it has paid yet or not, and wait for it.

    Args:
        model: what ``torch.compile`` returned; called at least once.
        timeout: seconds to wait; None for as long as it takes.

    Returns:
        The status then; ``ready`` is False if the time was up or a build failed.

    Raises:
        DjinnError: the model was not called yet.
    """
    from djinn_fx.compiling.readiness import wait_until_ready as wait

    return wait(model, timeout)


def compilations() -> tuple[CapturedGraph, ...]:
    """What was compiled in this process, oldest first, the last 256: graphs, plans, builds and reasons."""
    from djinn_fx.compiling.graph import history

    return history()


def capture(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    settings: Settings | None = None,
    build: bool = False,
    dynamic: bool | None = None,
    again: Callable[[], tuple[tuple[Any, ...], Mapping[str, Any]]] | None = None,
) -> CaptureResult:
    """Trace a model with example arguments and plan its graphs, without changing the model.

    Args:
        model: a module or a function of tensors.
        args: positional arguments.
        kwargs: keyword arguments.
        settings: those in force if None.
        build: also build and run the regions; otherwise the graphs run eagerly.
        dynamic: as for ``torch.compile``.
        again: makes the arguments of further calls, whose memory is counted and which are timed; without gradients and
            on the CPU only.
    """
    from djinn_fx.compiling.capture import capture_graphs

    return capture_graphs(model, args, kwargs or {}, settings=settings, build=build, dynamic=dynamic, again=again)


def compile_exported(
    program: torch.export.ExportedProgram, *, mode: str | None = None, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Compile a ``torch.export`` program.

    Args:
        program: as ``torch.export.export`` gives it; dynamic dimensions stay dynamic.
        mode: as for ``torch.compile``.
        options: as for ``torch.compile``.

    Returns:
        A callable with the program's own signature.

    Raises:
        SettingsError: as for :func:`djinn`.
    """
    from djinn_fx.compiling.entry.door import compile_program

    return compile_program(program, mode, options)
