"""The small process between the pool and a worker: starts it, watches it, and leaves nothing of it behind. No torch.

Why it is there. When the user's process is killed by SIGKILL nothing of ours runs in it any more, and a worker that
is stuck in a compiler, or the C++ compiler it started, would go on. The warden sees the pool's end of a socket close
and kills everything that descends from it, also what tried to get away (it is the subreaper of all of them). It
measures memory and keeps the last of what compilers print, so that the user's process does nothing during a build.

On the control socket, one JSON object a line. From the pool: ``{"job": token, "limit": bytes}`` before a request,
``{"done": token}`` after a reply, ``{"late": token}`` when its time is over, ``{"kill": true}``. From the warden:
``{"event": "usage", …}`` in answer to ``done``, ``{"event": "waited", …}`` in answer to ``late``, ``{"event":
"memory", …}`` before it kills what grew too large, ``{"event": "exit", …}`` when the worker is gone with everything
it started. The socket's end means the same as ``kill``.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any

from djinn_fx.pool import procfs, worker

_PR_SET_CHILD_SUBREAPER = 36
#: Bytes of output kept.
_TAIL_BYTES = 4096
#: Seconds between two looks at the memory of a running build; more where looking is dear.
_SAMPLE_S = 0.1
#: At most this share of one core goes into looking.
_SAMPLE_SHARE = 0.02
#: Seconds between two looks whether the parent is still there, for the case that a copy of its socket outlives it.
_PARENT_S = 1.0


def main(settings: Mapping[str, Any]) -> None:
    """Start the worker and serve until it is gone.

    Args:
        settings: those of :func:`djinn_fx.pool.worker.work`, and ``control`` and ``channel`` (file
            descriptors), ``parent`` (the pool's process id).
    """
    os.setpgid(0, 0)  # no Ctrl-C of the terminal: the pool decides. Not setsid, which would undo nice (autogroup).
    # What the user's process ignores or blocks is inherited, and would hide how the worker ends.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_DFL)
    for number in (settings["control"], settings["channel"]):
        os.set_inheritable(number, False)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    output, output_end = os.pipe()
    warden = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(settings["control"])
            os.close(output)
            worker.work(settings["channel"], output_end, {**settings, "warden": warden})
        finally:
            os._exit(0)  # whatever is left (threads, exit handlers of compilers) is not worth waiting for
    os.close(settings["channel"])
    os.close(output_end)
    _Warden(pid, socket.socket(fileno=settings["control"]), output, int(settings["parent"])).serve()


class _Warden:
    def __init__(self, pid: int, control: socket.socket, output: int, parent: int) -> None:
        self._pid = pid
        self._control = control
        self._output = output
        self._parent = parent
        self._tail = b""
        self._lines = b""
        self._status: int | None = None
        self._limit = 0
        self._building = False
        self._peak = 0
        self._period_s = _SAMPLE_S
        self._waits: dict[int, float] = {}  # of each process, at the last look
        self._waited_s = 0.0
        control.setblocking(True)
        os.set_blocking(output, False)

    def serve(self) -> None:
        """Until the worker is gone."""
        bell, hammer = socket.socketpair()
        for end in (bell, hammer):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that the wakeup socket is written to
        signal.set_wakeup_fd(hammer.fileno())
        poll = select.poll()
        for number in (self._control.fileno(), self._output, bell.fileno()):
            poll.register(number, select.POLLIN)
        next_sample = 0.0
        while self._status is None:
            for number, _ in poll.poll((self._period_s if self._building else _PARENT_S) * 1000):
                if number == self._output:
                    if not self._drain():
                        poll.unregister(self._output)
                elif number == bell.fileno():
                    bell.recv(4096)
                elif not self._listen():
                    self._end()
                    return
            if not self._reap() or os.getppid() != self._parent:
                self._end()
                return
            if self._building and time.monotonic() >= next_sample:
                if self._sample():
                    self._end()
                    return
                next_sample = time.monotonic() + self._period_s
        self._end()

    def _end(self) -> None:
        """Kill all there is, tell how the worker ended."""
        until = time.monotonic() + 10  # a process in the kernel's hands cannot be killed at once
        if self._status is None:
            _kill_group(self._pid)
        while self._reap() and time.monotonic() < until:
            for pid in procfs.descendants(os.getpid()):
                _kill(pid)
            time.sleep(0.002)
        self._drain()
        self._tell(event="exit", status=self._status, peak=self._peak, tail=self._text())

    def _reap(self) -> bool:
        """Bury the dead, the worker or what it left; whether anybody lives."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = os.waitstatus_to_exitcode(status)

    def _listen(self) -> bool:
        """Take what the pool says; False where it wants an end."""
        try:
            piece = self._control.recv(65536)
        except OSError:
            return False
        *lines, self._lines = (self._lines + piece).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "job" in message:
                self._drain()
                self._tail, self._peak, self._limit, self._building = b"", 0, int(message["limit"]), True
                procfs.reset_peak(self._pid)
                self._waits, self._waited_s = {pid: procfs.waited_seconds(pid) for pid in self._tree()}, 0.0
            elif "done" in message:
                self._building = False
                resident = sum(procfs.resident_bytes(pid) for pid in self._tree())
                self._drain()
                peak = max(self._peak, resident, procfs.peak_bytes(self._pid))
                self._tell(event="usage", token=message["done"], resident=resident, peak=peak, tail=self._text())
            elif "late" in message:
                self._count_waiting(self._tree())
                self._tell(event="waited", token=message["late"], seconds=self._waited_s)
            else:
                return False
        return bool(piece)

    def _sample(self) -> bool:
        """Look at the memory; whether it is more than allowed."""
        start = time.monotonic()
        tree = self._tree()
        resident = sum(procfs.resident_bytes(pid) for pid in tree)
        if resident > self._limit:
            # Processes forked from one another share pages: those are not to be counted twice.
            shares = [procfs.proportional_bytes(pid) for pid in tree]
            known = [share for share in shares if share is not None]
            resident = sum(known) if len(known) == len(shares) else resident
        self._peak = max(self._peak, resident)
        self._count_waiting(tree)
        self._period_s = max(_SAMPLE_S, (time.monotonic() - start) / _SAMPLE_SHARE)
        if resident <= self._limit:
            return False
        self._tell(event="memory", resident=resident)
        return True

    def _count_waiting(self, tree: list[int]) -> None:
        """Add what the build was kept waiting since the last look: one of its processes works while others wait for
        it, so the longest wait counts, not the sum."""
        waits = {pid: procfs.waited_seconds(pid) for pid in tree}
        self._waited_s += max((wait - self._waits.get(pid, 0.0) for pid, wait in waits.items()), default=0.0)
        self._waits = waits

    def _tree(self) -> list[int]:
        return [self._pid, *procfs.descendants(self._pid)]

    def _drain(self) -> bool:
        """Take what has been printed; False once nobody can print any more."""
        for _ in range(1024):  # a chatterbox must not keep the warden from its other work
            try:
                piece = os.read(self._output, 65536)
            except BlockingIOError:
                return True
            if not piece:
                return False
            self._tail = (self._tail + piece)[-_TAIL_BYTES:]
        return True

    def _text(self) -> str:
        return self._tail.decode("utf-8", "replace")

    def _tell(self, **message: Any) -> None:
        try:
            self._control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return  # nobody listens any more; the end comes by itself


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        _kill(pid)  # it has not yet made its group


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return  # gone
