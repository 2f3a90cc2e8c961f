"""What torch keeps for each thread and a call's ops depend on: carried from the caller to a device's thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch


class Modes(NamedTuple):
    """The modes of a thread."""

    grad: bool
    inference: bool
    autocast: tuple[bool, Any, bool] | None
    included: Any
    excluded: Any
    raw: tuple[int, int]


_local = threading.local()
#: The mode of AOTAutograd's that looks whether custom operators give back what they were given.
_ANALYSES = "_AnalyzeCustomOpInputOutputMode"


def modes() -> Modes:
    """This thread's."""
    autocast = None
    if torch.is_autocast_enabled("cpu"):
        autocast = (True, torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled())
    included, excluded = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    raw = (included.raw_repr(), excluded.raw_repr())
    return Modes(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast, included, excluded, raw)


def intercepted() -> bool:
    """Whether ops of this thread go through Python modes, which another thread's would not."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())


def watched() -> bool:
    """As :func:`intercepted`, less what AOTAutograd looks at a graph's first call with: it changes nothing."""
    if torch._C._len_torch_function_stack():
        return True
    stack = range(torch._C._len_torch_dispatch_stack())
    return any(type(torch._C._get_dispatch_stack_at(place)).__name__ != _ANALYSES for place in stack)


def carried(wanted: Modes) -> contextlib.AbstractContextManager[None]:
    """Those modes in this thread, for as long as this lasts; it is one of ours, and has no others between its jobs."""
    own: Modes | None = getattr(_local, "own", None)
    if own is None:
        own = _local.own = modes()
    if own.raw == wanted.raw and own.inference == wanted.inference and wanted.autocast is None:
        return _Grad(own.grad, wanted.grad)  # all that differs in most calls
    return _all_of(wanted)


class _Grad(contextlib.AbstractContextManager[None]):
    """Grad mode, as ``torch.set_grad_enabled`` sets it, without what makes that slow."""

    def __init__(self, before: bool, wanted: bool) -> None:
        self._before, self._wanted = before, wanted

    def __enter__(self) -> None:
        if self._before != self._wanted:
            torch._C._set_grad_enabled(self._wanted)

    def __exit__(self, *_: object) -> None:
        if self._before != self._wanted:
            torch._C._set_grad_enabled(self._before)


@contextlib.contextmanager
def _all_of(wanted: Modes) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if wanted.inference != torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(wanted.inference))
        if wanted.grad != torch.is_grad_enabled():
            stack.enter_context(torch.set_grad_enabled(wanted.grad))
        if wanted.autocast is not None:
            _, dtype, keeps = wanted.autocast
            stack.enter_context(torch.autocast("cpu", dtype=dtype, cache_enabled=keeps))
        if modes().raw != wanted.raw:
            stack.enter_context(torch._C._ForceDispatchKeyGuard(wanted.included, wanted.excluded))
        yield
