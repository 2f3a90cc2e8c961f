"""Tracing that other threads may call compiled functions beside.

While ``make_fx`` traces, FX sets a flag of the whole process, and a function made by ``torch.compile`` that is called
in any thread then raises ("using FX to symbolically trace a dynamo-optimized function") unless torch says that it is
compiling. Dynamo says so while it compiles a frame, and lets one thread at a time do it. We trace outside of Dynamo's
frames too: a graph that is planned on a later call, a backward graph on the first backward pass. So these do the same,
under the same lock: everything of FX that belongs to the process (that flag, the patched calls of ``nn.Module``, which
Dynamo takes back and puts on again) is then in one thread's hands at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._dynamo.convert_frame import compile_lock

_COMPILER: Any = torch.compiler


@contextlib.contextmanager
def compile_session() -> Iterator[None]:
    """Trace in here. Waits until no other thread compiles; a thread that is in one already may enter again."""
    with compile_lock:
        before = _COMPILER._is_compiling_flag
        _COMPILER._is_compiling_flag = True
        try:
            yield
        finally:
            _COMPILER._is_compiling_flag = before
