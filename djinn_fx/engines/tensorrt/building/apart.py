"""Builds a plan in a process whose memory is laid out the same each time, so that equal requests give equal bytes.

TensorRT numbers expressions of symbols in an order that depends on the addresses of its objects. Plans of networks with
symbols mean the same and may differ in a few bytes from build to build (seen with one symbol and with two); without
symbols the bytes are equal anyway. A fresh process without address randomization gives equal bytes nearly always: on a
busy machine about one plan in sixteen still differed, in 18 bytes of 312,172 (TensorRT's own threads allocate in an
order of their own; one CPU and one arena did not help). Linux only.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from djinn_fx.pool.jobs import BuildError

#: Linux: the kernel lays out the memory of a process, and of what it starts, at the same addresses each time.
_NO_RANDOMIZATION = 0x0040000

#: Named by text: the worker imports this module.
_MAIN = "from djinn_fx.engines.tensorrt.building.worker import main; main()"


def build_apart(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Build a request of :func:`djinn_fx.engines.tensorrt.building.worker.build` in such a process.

    Raises:
        BuildError: as the worker's; stage ``support`` where processes cannot be had like this.
    """
    if sys.platform != "linux":
        raise BuildError("plans of several symbols are reproducible on Linux only", stage="support")
    told = {key: value for key, value in request.items() if key not in ("nodes", "calling")}
    told["options"] = {**(request.get("options") or {}), "reproducible": False}
    head = json.dumps({"request": told, "sizes": [len(blob) for blob in blobs]}, sort_keys=True).encode()
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONHASHSEED": "0"}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _MAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            preexec_fn=_lay_out_alike,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"no process without address randomization: {error}", stage="support") from error
    answer, said = process.communicate(b"\n".join([head, b"".join(blobs)]))
    if process.returncode:
        last = said.decode(errors="replace").strip().splitlines()[-1:] or [""]
        raise BuildError(f"the builder's process ended with {process.returncode}: {last[0]}", stage="build")
    line, _, plan = answer.partition(b"\n")
    reply = json.loads(line)
    if "detail" in reply:
        raise BuildError(reply["detail"], stage=reply["stage"], node=reply["node"])
    return {**reply["header"], "calling": request.get("calling")}, plan


def _lay_out_alike() -> None:
    if ctypes.CDLL(None).personality(_NO_RANDOMIZATION) == -1:
        raise OSError("address randomization cannot be switched off here")
