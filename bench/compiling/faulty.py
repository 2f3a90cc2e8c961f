"""A worker of the build pool that does what its request says, also what no builder should. For tests and benches.

A pool that has it: ``BuildPool(limits, workers={**WORKERS, **faulty.WORKERS}, extra_path=faulty.EXTRA_PATH)``; a
request is ``{"fault": name, …}``. Only the standard library is imported, so a child starts as fast as one can.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from djinn_fx.pool import worker
from djinn_fx.pool.jobs import BuildError
from djinn_fx.pool.wire import MAGIC, encode

WORKERS = {"faults": "bench.compiling.faulty:build"}
EXTRA_PATH = (str(Path(__file__).absolute().parents[2]),)
_FOREVER_S = 3600.0


def build(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Do ``request["fault"]``, one of :data:`FAULTS`; ``"none"`` gives back what it was given.

    Args:
        request: also ``value``, that a good build returns in its header; ``seconds`` to sleep before; ``bytes`` to
            allocate or to return; ``note``, a file that a line is appended to when the build starts.
        blobs: joined, they are a good build's payload.
    """
    if "note" in request:
        with open(request["note"], "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    time.sleep(request.get("seconds", 0.0))
    FAULTS[request["fault"]](request)
    return {"value": request.get("value"), "pid": os.getpid()}, b"".join(blobs) + bytes(request.get("size", 0))


def _channel() -> socket.socket:
    assert worker.channel is not None
    return worker.channel


def _segfault(request: Mapping[str, Any]) -> None:
    ctypes.string_at(0)


def _abort(request: Mapping[str, Any]) -> None:
    print("about to abort", flush=True)
    os.abort()


def _leave(request: Mapping[str, Any]) -> None:
    sys.exit(0)


def _leave_at_once(request: Mapping[str, Any]) -> None:
    os._exit(request.get("code", 0))


def _kill_itself(request: Mapping[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_warden(request: Mapping[str, Any]) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(_FOREVER_S)


def _hang(request: Mapping[str, Any]) -> None:
    while True:
        time.sleep(0.01)


def _hang_in_c(request: Mapping[str, Any]) -> None:
    """In native code that holds the GIL, so that no thread of this process can do anything about it."""
    ctypes.PyDLL(None).sleep(int(_FOREVER_S))


def _spin(request: Mapping[str, Any]) -> None:
    while True:
        pass


def _work(request: Mapping[str, Any]) -> None:
    """Uses ``cpu`` seconds of a processor, then a good build."""
    end = time.process_time() + request.get("cpu", 0.1)
    while time.process_time() < end:
        pass


def _ignore_signals(request: Mapping[str, Any]) -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    _hang_in_c(request)


def _hog(request: Mapping[str, Any]) -> None:
    """Memory, quickly, up to ``bytes``; then keep it."""
    held = []
    for _ in range(request["bytes"] // 2**24):
        held.append(b"\x01" * 2**24)
        time.sleep(0.002)
    time.sleep(request.get("hold", _FOREVER_S))


def _out_of_memory(request: Mapping[str, Any]) -> None:
    raise MemoryError


def _half_reply(request: Mapping[str, Any]) -> None:
    whole = b"".join(encode({"ok": True, "header": {}, "token": "?"}, [bytes(1000)]))
    _channel().sendall(whole[: len(whole) // 2])
    os._exit(0)


def _garbage(request: Mapping[str, Any]) -> None:
    _channel().sendall(os.urandom(4096))
    time.sleep(_FOREVER_S)


def _forged(request: Mapping[str, Any]) -> None:
    """A reply in good form, to a request that was never made."""
    for piece in encode({"ok": True, "header": {"value": "forged"}, "token": "0" * 32}, [b"forged"]):
        _channel().sendall(piece)
    time.sleep(_FOREVER_S)


def _boast(request: Mapping[str, Any]) -> None:
    """Announces a reply that no memory holds."""
    text = b'{"ok": true, "blobs": [1000000000000000]}'
    _channel().sendall(MAGIC + len(text).to_bytes(4, "big") + text)
    time.sleep(_FOREVER_S)


def _close_channel(request: Mapping[str, Any]) -> None:
    _channel().shutdown(socket.SHUT_RDWR)
    time.sleep(_FOREVER_S)


def _raise(request: Mapping[str, Any]) -> None:
    raise ValueError("this cannot be built")


def _refuse(request: Mapping[str, Any]) -> None:
    raise BuildError("no such layer", stage="convert", node="conv_3")


def _grandchild(request: Mapping[str, Any]) -> None:
    """A process of its own that runs for ever, as a compiler's might, then a hang."""
    _start_grandchild(new_session=False)
    _hang_in_c(request)


def _runaway(request: Mapping[str, Any]) -> None:
    """The same, but it leaves the group and the session, and its parent is gone."""
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True)"
    subprocess.run([sys.executable, "-c", script], check=True, start_new_session=True)
    _hang_in_c(request)


def _kill_warden_runaway(request: Mapping[str, Any]) -> None:
    """Nobody is left to kill the process that left."""
    _start_grandchild(new_session=True)
    _kill_warden(request)


def _hog_in_grandchild(request: Mapping[str, Any]) -> None:
    script = f"import time; held = b'1' * {request['bytes']}; time.sleep({_FOREVER_S})"
    subprocess.run([sys.executable, "-c", script], check=True)


def _orphan_then_segfault(request: Mapping[str, Any]) -> None:
    _start_grandchild(new_session=True)
    _segfault(request)


#: What the processes run that faulty builders start.
SLEEPER = f"import time; time.sleep({_FOREVER_S})"


def _start_grandchild(*, new_session: bool) -> None:
    subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=new_session)


def _chatter(request: Mapping[str, Any]) -> None:
    """More output than a pipe holds, on both streams and from a child; then a good build."""
    for _ in range(200):
        print("o" * 4096)
        print("e" * 4096, file=sys.stderr)
    sys.stdout.flush()
    subprocess.run(["echo", "x" * 10000], check=True)


def _unsendable(request: Mapping[str, Any]) -> None:
    request["value"]["self"] = request["value"]  # JSON has no circles


FAULTS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "none": lambda request: None,
    "work": _work,
    "segfault": _segfault,
    "abort": _abort,
    "leave": _leave,
    "leave-at-once": _leave_at_once,
    "kill-itself": _kill_itself,
    "kill-warden": _kill_warden,
    "kill-warden-runaway": _kill_warden_runaway,
    "hang": _hang,
    "hang-in-c": _hang_in_c,
    "spin": _spin,
    "ignore-signals": _ignore_signals,
    "hog": _hog,
    "hog-in-grandchild": _hog_in_grandchild,
    "out-of-memory": _out_of_memory,
    "half-reply": _half_reply,
    "garbage": _garbage,
    "forged": _forged,
    "boast": _boast,
    "close-channel": _close_channel,
    "raise": _raise,
    "refuse": _refuse,
    "grandchild": _grandchild,
    "runaway": _runaway,
    "orphan-then-segfault": _orphan_then_segfault,
    "chatter": _chatter,
    "unsendable": _unsendable,
}

#: Those that never end by themselves: give the job a short time.
ENDLESS = frozenset({"hang", "hang-in-c", "spin", "ignore-signals", "grandchild", "runaway"})
#: Those whose child dies, or is killed for what it sent.
DEADLY = frozenset(
    "segfault abort leave leave-at-once kill-itself kill-warden kill-warden-runaway half-reply garbage forged boast "
    "close-channel orphan-then-segfault".split()
)
#: Those that take all the memory they are asked to (``bytes``).
GREEDY = frozenset({"hog", "hog-in-grandchild"})
