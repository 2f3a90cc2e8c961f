"""``--exec script.py -- args``: run a script as it is, and record what it gives to torch.compile."""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from djinn_fx.compiling.capture import Recorder
from djinn_fx.errors import ModelFailedError
from djinn_fx.explain.finding.file import checked_path, user_code
from djinn_fx.settings.table import Settings

#: The name of this package's own backend, whose options a script may give.
_OURS = "djinn"


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """One function or module that the script compiles.

    Attributes:
        name: its class, or its own name; the second of a name is ``Net#2``.
        model: itself.
        recorder: what was planned of it.
    """

    name: str
    model: Callable[..., Any]
    recorder: Recorder


@dataclass
class ScriptRun:
    """What a script gave to torch.compile: all of it, and those parts that it called."""

    compiled: list[Compiled] = field(default_factory=list)

    @property
    def called(self) -> list[Compiled]:
        """Those of which there is a graph."""
        return [one for one in self.compiled if one.recorder.graphs]


def run_script(shown: str, args: Sequence[str], settings: Settings, *, build: bool) -> ScriptRun:
    """Run it as ``python script.py args`` would, with torch.compile recorded.

    Args:
        shown: the script, as the user wrote it.
        args: its own.
        settings: of djinn, where the script gives none to it.
        build: also build what is planned.

    Raises:
        ModelFileError: there is no such file.
        ModelFailedError: it raises, ends with an exit code, or calls nothing that is compiled.
    """
    path = checked_path(shown)
    run = ScriptRun()
    torch._dynamo.reset()
    with _as_main(path, args), _recorded(run, settings, build), user_code(shown, path, "running the script"):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as ended:
            if ended.code not in (None, 0):
                raise ModelFailedError(f"{shown}: the script ended with exit code {ended.code}") from ended
    torch._dynamo.reset()
    if not run.called:
        why = "calls none of what it gives to torch.compile" if run.compiled else "gives nothing to torch.compile"
        raise ModelFailedError(f"{shown}: it ran, and {why}")
    return run


@contextlib.contextmanager
def _as_main(path: Path, args: Sequence[str]) -> Iterator[None]:
    """Its folder first on the path, its own arguments; what it prints goes to stderr."""
    saved = sys.argv, list(sys.path)
    sys.argv = [str(path), *args]
    sys.path.insert(0, str(path.parent))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv, sys.path[:] = saved


@contextlib.contextmanager
def _recorded(run: ScriptRun, settings: Settings, build: bool) -> Iterator[None]:
    """torch.compile goes to our backend, whatever backend is asked for."""
    usual = torch.compile

    def compile(model: Any = None, **given: Any) -> Any:
        if model is None:
            return lambda later: compile(later, **given)
        backend, mode, options = (given.pop(name, None) for name in ("backend", "mode", "options"))
        chosen = settings
        if backend == _OURS and (mode is not None or options):
            chosen = Settings.load(mode, dict(options or {}))
        if given.pop("disable", False):
            return model
        name = _distinct(_name_of(_owner(model)), [one.name for one in run.compiled])
        recorder = Recorder(chosen, build=build)
        run.compiled.append(Compiled(name=name, model=_owner(model), recorder=recorder))
        return usual(model, backend=recorder, **given)

    torch.compile = compile
    try:
        yield
    finally:
        torch.compile = usual


def _owner(model: Any) -> Any:
    """The module of a method: Module.compile() hands that over."""
    owner = getattr(model, "__self__", None)
    return owner if isinstance(owner, nn.Module) else model


def _name_of(model: Any) -> str:
    return (
        type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__qualname__", type(model).__name__)
    )


def _distinct(name: str, taken: Sequence[str]) -> str:
    count = sum(one.partition("#")[0] == name for one in taken)
    return f"{name}#{count + 1}" if count else name
