"""Work that Inductor does once before its first CPU kernel, started early and beside the tracing.

On a machine that has never compiled, Inductor first compiles a test program to see which vector instructions
work and then precompiles two headers: together several seconds of g++ while Python waits. None of it depends on
the model. Started when the backend is first called, it runs while AOTAutograd traces on the other core.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch

log = logging.getLogger("djinn_fx.engines.prewarm")

#: The smallest kernel: building it makes Inductor check the instruction set and precompile its headers.
_KERNEL = """
#include <torch/csrc/inductor/cpp_prefix.h>
extern "C" void kernel(float* out) { out[0] = 0; }
"""


def prewarm(example_inputs: Sequence[Any]) -> None:
    """Start the work in the background, once a process, if a CPU kernel may be needed."""
    devices = {value.device.type for value in example_inputs if isinstance(value, torch.Tensor)}
    if devices <= {"cpu"} and not torch.compiler.config.force_disable_caches:
        _start()


@functools.cache
def _start() -> None:
    threading.Thread(target=_warm, name="djinn-prewarm", daemon=True).start()


def _warm() -> None:
    try:
        from torch._inductor import codecache, cpu_vec_isa

        cpu_vec_isa.pick_vec_isa()
        codecache.CppPythonBindingsCodeCache.load_pybinding_async(["float*"], _KERNEL)
    except Exception as error:  # whatever is wrong shows again, with its place, when a region is compiled
        log.debug("not warmed up: %s: %s", type(error).__name__, error)
