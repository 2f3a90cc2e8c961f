"""Tracing that other threads may call compiled functions beside.

While ``make_fx`` traces, FX sets a flag (of the whole process before torch 2.14), and a function made by
``torch.compile`` that is called in any thread then raises ("using FX to symbolically trace a dynamo-optimized
function") unless torch says that it is compiling. Dynamo says so while it compiles a frame, and lets one thread at a
time do it. We trace outside of Dynamo's frames too: a graph that is planned on a later call, a backward graph on the
first backward pass. So these do the same, under the same lock: everything of FX that belongs to the process (that
flag, the patched calls of ``nn.Module``, which Dynamo takes back and puts on again) is then in one thread's hands at a
time.

A process that is forked meanwhile has no such thread: there the lock is let go and what was set is taken back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch._dynamo.convert_frame import compile_lock
from torch.fx import _symbolic_trace

from djinn_fx.threads import renew, tell_of_fork

_COMPILER: Any = torch.compiler
_FX: Any = _symbolic_trace


@contextlib.contextmanager
def compile_session() -> Iterator[None]:
    """Trace in here. Waits until no other thread compiles; a thread that is in one already may enter again."""
    with compile_lock:
        before, outer = _COMPILER._is_compiling_flag, _SESSIONS.thread
        _COMPILER._is_compiling_flag, _SESSIONS.thread = True, threading.get_ident()
        try:
            yield
        finally:
            _COMPILER._is_compiling_flag, _SESSIONS.thread = before, outer


class _Sessions:
    """Who is in a session; None: nobody."""

    thread: int | None = None

    def after_fork(self) -> None:
        """In a forked process: nobody is, unless it was the thread that forked."""
        if self.thread in (None, threading.get_ident()):
            return
        self.thread = None
        renew(compile_lock)
        _COMPILER._is_compiling_flag = False
        if hasattr(_FX, "_is_fx_tracing_flag"):  # before torch 2.14; then it is each thread's own
            _FX._is_fx_tracing_flag = False
        patcher = getattr(_FX, "CURRENT_PATCHER", None)
        if patcher is not None:
            patcher.revert_all_patches()
            _FX.CURRENT_PATCHER = None


_SESSIONS = _Sessions()
tell_of_fork(_SESSIONS)
