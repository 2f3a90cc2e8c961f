"""Work that Inductor does once before its first CPU kernel: made short, and started beside the tracing.

Which vector instructions can be compiled for: Inductor builds up to four test programs with ATen's vector headers,
1 to 4 s each. The processor itself says what it can run, and whether the compiler knows the instructions shows
from its accepting the flags, which takes 20 ms. ``cpp.vec_isa_ok`` is Inductor's own setting for "do not try".

Precompiled headers: a few seconds of g++ while Python waits, once a machine. They do not depend on the model, so
they are built in a thread while AOTAutograd traces.
"""

from __future__ import annotations

import functools
import logging
import subprocess
from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.threads import start_thread

log = logging.getLogger("djinn_fx.engines.inductor.prewarm")

#: The smallest kernel: building it makes Inductor precompile its headers.
_KERNEL = """
#include <torch/csrc/inductor/cpp_prefix.h>
extern "C" void kernel(float* out) { out[0] = 0; }
"""


def prewarm(example_inputs: Sequence[Any]) -> None:
    """Start the work in the background, once a process, if CPU kernels may be needed."""
    devices = {value.device.type for value in example_inputs if isinstance(value, torch.Tensor)}
    if devices <= {"cpu"}:
        _start()


@functools.cache
def compiler_takes_vector_flags() -> bool:
    """Whether the C++ compiler knows the instructions of the vector units this processor has (x86 only)."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.cpu_vec_isa import supported_vec_isa_list, x86_isa_checker

        present = set(x86_isa_checker())
        flags = {
            flag
            for isa in supported_vec_isa_list
            if present.issuperset(str(isa).split())
            for flag in isa._arch_flags.split()
        }
        if not flags:
            return False
        command = [get_cpp_compiler(), *sorted(flags), "-x", "c++", "-fsyntax-only", "/dev/null"]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except Exception as error:  # noqa: BLE001  (names moved, or no compiler: Inductor's own check decides)
        log.debug("vector flags not checked: %s: %s", type(error).__name__, error)
        return False


@functools.cache
def know_vector_units() -> None:
    """Let torch remember which vector instructions can be compiled for, once a process. Takes 20 ms, not seconds."""
    if not compiler_takes_vector_flags():
        return
    try:
        from torch._inductor import config
        from torch._inductor.cpu_vec_isa import valid_vec_isa_list

        with config.patch("cpp.vec_isa_ok", True):
            valid_vec_isa_list()  # cached by torch
    except Exception as error:  # noqa: BLE001  (no room for its files, say: told when a region is compiled)
        log.debug("vector units not asked for: %s: %s", type(error).__name__, error)


@functools.cache
def _start() -> None:
    know_vector_units()
    start_thread(_warm, "djinn-prewarm", compiles=True)


def _warm() -> None:
    try:
        from torch._inductor.codecache import CppPythonBindingsCodeCache

        CppPythonBindingsCodeCache.load_pybinding_async(["float*"], _KERNEL)
    except Exception as error:  # noqa: BLE001  (what is wrong shows again when a region is compiled)
        log.debug("not warmed up: %s: %s", type(error).__name__, error)
