"""What torch keeps for each thread and a call's ops depend on: carried from the caller to a device's thread."""

from __future__ import annotations

import contextlib
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


def modes() -> Modes:
    """This thread's."""
    autocast = None
    if torch.is_autocast_enabled("cpu"):
        autocast = (True, torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled())
    return Modes(
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        autocast,
        torch._C._dispatch_tls_local_include_set(),
        torch._C._dispatch_tls_local_exclude_set(),
    )


def intercepted() -> bool:
    """Whether ops of this thread go through Python modes, which another thread's would not."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())


@contextlib.contextmanager
def carried(wanted: Modes) -> Iterator[None]:
    """Those modes in this thread, for as long as this lasts."""
    with contextlib.ExitStack() as stack:
        if wanted.inference != torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(wanted.inference))
        if wanted.grad != torch.is_grad_enabled():
            stack.enter_context(torch.set_grad_enabled(wanted.grad))
        if wanted.autocast is not None:
            _, dtype, keeps = wanted.autocast
            stack.enter_context(torch.autocast("cpu", dtype=dtype, cache_enabled=keeps))
        here = (torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set())
        if _raw(here) != _raw((wanted.included, wanted.excluded)):
            stack.enter_context(torch._C._ForceDispatchKeyGuard(wanted.included, wanted.excluded))
        yield


def _raw(sets: tuple[Any, Any]) -> tuple[int, int]:
    return sets[0].raw_repr(), sets[1].raw_repr()
