"""The process that builds: imports one worker's module and answers requests until its channel closes. No torch.

It is a fork of the freshly started warden (:mod:`djinn_fx.pool.warden`), which had no threads and had
imported nothing. It lowers its own priority, dies with the warden, and is what the kernel kills first when memory
runs out.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import platform
import resource
import signal
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from djinn_fx.pool.jobs import BuildError
from djinn_fx.pool.wire import Message, WireError, encode, receive, send

_PR_SET_PDEATHSIG = 1
#: Of ioprio_set(2): number of the system call, and the class that gets the disk when nobody else wants it.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13
#: A request's blobs come from our own parent; this only bounds what nonsense can do.
_MAX_REQUEST_BYTES = 2**40

#: The channel to the pool; here for workers that inject faults.
channel: socket.socket | None = None


def work(channel_fd: int, output_fd: int, settings: Mapping[str, Any]) -> None:
    """Be the worker; returns when the pool closes the channel.

    Args:
        channel_fd: socket the requests come by and the replies go by.
        output_fd: pipe that takes what compilers print.
        settings: ``worker`` ("module:function"), ``nice``, ``idle_class``, ``warden`` (its process id).
    """
    global channel
    _settle(output_fd, settings)
    channel = socket.socket(fileno=channel_fd)
    channel.setblocking(True)
    while True:
        try:
            message = receive(channel, _MAX_REQUEST_BYTES)
        except (OSError, WireError):
            return  # the pool died in the middle of a request
        if message is None:
            return
        start = time.perf_counter()
        answer, payload = _answer(settings["worker"], message)
        answer.update(token=message.header["token"], seconds=time.perf_counter() - start)
        try:
            pieces = encode(answer, [payload])
        except WireError as error:
            pieces = encode(_refusal(answer, f"what it returned cannot be sent: {error}"))
        try:
            send(channel, pieces)
        except OSError:
            return


def _answer(function: str, message: Message) -> tuple[dict[str, Any], bytes]:
    """The reply to one request."""
    largest = int(message.header["max_reply_bytes"])
    try:
        module, _, name = function.partition(":")
        build = getattr(importlib.import_module(module), name)
        header, payload = build(message.header["request"], message.blobs)
        if not isinstance(header, dict) or not isinstance(payload, (bytes, bytearray, memoryview)):
            raise TypeError(f"{function} returned {type(header).__name__} and {type(payload).__name__}")
        payload = bytes(payload)
        if len(payload) > largest:
            raise BuildError(f"the artefact has {len(payload)} bytes; at most {largest} are taken", stage="build")
    except BuildError as error:
        return {"ok": False, "detail": error.detail, "stage": error.stage, "node": error.node}, b""
    except MemoryError:
        return {"ok": False, "memory": True, "detail": "the builder could not get memory", "stage": "build"}, b""
    except Exception as error:  # noqa: BLE001 - goes to the pool, which makes a BuildFailed of it
        return {"ok": False, "detail": _describe(error), "stage": "build"}, b""
    return {"ok": True, "header": header}, payload


def _refusal(answer: Mapping[str, Any], detail: str) -> dict[str, Any]:
    return {"ok": False, "detail": detail, "stage": "build", "token": answer["token"], "seconds": answer["seconds"]}


def _describe(error: BaseException) -> str:
    """The exception, and where it was raised, in one line of bounded length."""
    text = " ".join(str(error).split())[:2000]
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"


def _settle(output_fd: int, settings: Mapping[str, Any]) -> None:
    """Make this process one that disturbs nobody and that goes when the warden goes."""
    os.setpgid(0, 0)  # what it starts can be killed with it
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != settings["warden"]:
        os._exit(1)  # the warden died before the kernel knew what to do then
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    os.close(output_fd)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    # None of these is needed for a right result: where the machine forbids one, the build runs without it.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, int(settings["nice"]))
    if settings["idle_class"]:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if platform.machine() in _IOPRIO_SET:
        libc.syscall(_IOPRIO_SET[platform.machine()], _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # rather this process than the user's
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write gigabytes
    faulthandler.enable(file=2)  # where it crashed goes into the failure's message
