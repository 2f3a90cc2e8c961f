"""A child of the pool seen from the pool: start it, have it build, kill it. No torch. Used by one thread at a time."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from djinn_fx.files import interpreter
from djinn_fx.pool import procfs
from djinn_fx.pool.jobs import BuildFailed, BuildJob, BuildOutcome, FailureKind
from djinn_fx.pool.limits import PoolLimits
from djinn_fx.pool.outcomes import Death, failure_of, outcome_of, problem_of
from djinn_fx.pool.wire import Message, Reader, WireError, encode

log = logging.getLogger("djinn_fx.pool")

#: A failure to run the warden reaches the pool as its last event.
_FAILING = {"event": "exit", "status": None, "peak": 0}
#: Environment variable of all that a child starts; not one of the settings, which begin with DJINN_.
MARK = "_DJINN_BUILD_CHILD"
#: Seconds a dead child's warden has to say how it died.
_LAST_WORDS_S = 2.0
#: A build that other processes keep from running may take this many times its time, not more.
_PATIENCE = 10
#: Seconds of such waiting that are worth going on for.
_WORTH_S = 0.05


class ChildError(Exception):
    """A child cannot be started."""


@dataclass
class _Exchange:
    """How one request is going."""

    token: str
    unsent: list[memoryview]
    reader: Reader
    reply: Message | None = None
    problem: str = ""
    grown: int = 0  # memory it was killed for
    gone: bool = False  # the worker is dead, or its channel closed
    exit: dict[str, Any] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    waited_s: float | None = None  # it was ready to run and did not get a processor; None if not asked


class Child:
    """A worker process with its warden.

    Args:
        kind: the worker's name.
        function: its "module:function".
        limits: for its priority.
        extra_path: more entries for its ``sys.path``, in front.

    Raises:
        ChildError: the machine does not let us start it.
    """

    def __init__(self, kind: str, function: str, limits: PoolLimits, extra_path: Sequence[str] = ()) -> None:
        self.kind = kind
        #: Memory it and what it started held after its last build, bytes.
        self.resident = 0
        #: When it last finished a build, seconds of time.monotonic.
        self.idle_since = time.monotonic()
        self._lines = b""
        self._mark = uuid.uuid4().hex
        if not sys.executable:
            raise ChildError("this Python is embedded in another program: sys.executable names no interpreter")
        try:
            self._channel, channel = socket.socketpair()
            self._control, control = socket.socketpair()
        except OSError as error:
            raise ChildError(f"a child process cannot be started: {error}") from error
        settings = {
            "worker": function,
            "nice": limits.nice,
            "idle_class": limits.idle_class,
            "control": control.fileno(),
            "channel": channel.fileno(),
            "parent": os.getpid(),
        }
        path, failing = [*extra_path, *sys.path], (control.fileno(), _FAILING)
        try:
            self._warden = subprocess.Popen(
                interpreter.command("djinn_fx.pool.warden:main", settings, path, failing=failing),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(control.fileno(), channel.fileno()),
                env={**os.environ, MARK: self._mark},
            )
        except OSError as error:
            self._channel.close()
            self._control.close()
            raise ChildError(f"a child process cannot be started: {error}") from error
        finally:
            channel.close()
            control.close()
        self._channel.setblocking(False)
        self._control.setblocking(False)

    @property
    def pid(self) -> int:
        """The warden's process id; the worker is its child."""
        return self._warden.pid

    def usable(self) -> bool:
        """Whether an idle child still lives and has said nothing unasked."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        return not poll.poll(0)

    def build(
        self, job: BuildJob, limits: PoolLimits, wake_fd: int, woken: Callable[[], bool]
    ) -> tuple[BuildOutcome, bool]:
        """Have a job built; the outcome, and whether the child can be used again.

        Args:
            job: what to build.
            limits: bounds of memory and reply.
            wake_fd: becomes readable when ``woken`` is to be asked.
            woken: called then; True to give up. The outcome is then CANCELLED.
        """
        start = time.monotonic()
        kills = procfs.oom_kills()
        token = uuid.uuid4().hex
        hard = limits.hard_bytes(job.memory_bytes)
        header = {"token": token, "request": job.request, "max_reply_bytes": limits.reply_bytes}
        try:
            pieces = encode(header, job.blobs)
        except WireError as error:
            return BuildFailed(kind=FailureKind.REFUSED, detail=f"the request cannot be sent: {error}"), True
        exchange = _Exchange(token, [memoryview(piece) for piece in pieces if piece], Reader(limits.reply_bytes))
        self._say(job=token, limit=hard)
        end, deadline = "timed out", start + job.timeout_s
        while end == "timed out" and time.monotonic() < start + job.timeout_s * _PATIENCE:
            end = self._exchange(exchange, deadline, wake_fd, woken)
            if end == "timed out":
                # It gives way to everybody: what it was kept from running is not its fault.
                waited_s = self._kept_waiting(exchange)
                if start + job.timeout_s + waited_s <= deadline + _WORTH_S:
                    break
                deadline = start + min(job.timeout_s + waited_s, job.timeout_s * _PATIENCE)
        if end == "replied":
            end = self._settle_accounts(exchange)
        seconds = time.monotonic() - start
        if end == "replied" and exchange.reply is not None:
            outcome = outcome_of(exchange.reply, exchange.usage, seconds)
            self.resident, self.idle_since = int(exchange.usage.get("resident", 0)), time.monotonic()
            return outcome, self.resident <= limits.retire_bytes
        self._last_words(exchange)
        death = Death(
            cancelled=end == "cancelled",
            timed_out=end == "timed out",
            grown_bytes=exchange.grown,
            problem=exchange.problem,
            last=exchange.exit or {},
            oom_kills=(procfs.oom_kills() or 0) - (kills or 0),
        )
        return failure_of(death, job, hard, seconds), False

    def stop(self) -> None:
        """Have the worker and everything it started killed. Returns at once; any thread may call it."""
        for end in (self._channel, self._control):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # seen at once, whoever else holds a copy

    def kill(self) -> None:
        """:meth:`stop`, and let go of the channels. :meth:`bury` waits for the end."""
        self.stop()
        for end in (self._channel, self._control):
            end.close()

    def bury(self, timeout_s: float) -> bool:
        """After :meth:`kill`: wait until the warden has seen to it that nothing is left. False if something may be."""
        try:
            self._warden.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._warden.kill()  # it is stopped, or cannot kill what it should
            with suppress(subprocess.TimeoutExpired):
                self._warden.wait(1.0)
        if self._warden.returncode != 0:
            # It was killed. Its worker dies with it, but nobody has looked after what that had started.
            until = time.monotonic() + timeout_s
            while left := procfs.marked(f"{MARK}={self._mark}"):
                for pid in left:
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                if time.monotonic() > until:
                    return False
                time.sleep(0.01)
        return self._warden.returncode is not None

    def end(self, timeout_s: float) -> None:
        """Kill and bury."""
        self.kill()
        if not self.bury(timeout_s):
            log.warning("process %d was killed and is still there", self.pid)

    def forget(self) -> None:
        """In a process forked from the pool's: let go of the child without touching it."""
        self._channel.close()
        self._control.close()
        self._warden.returncode = 0  # not our child: subprocess must not wait for it

    # Inside

    def _exchange(self, exchange: _Exchange, deadline: float, wake_fd: int, woken: Callable[[], bool]) -> str:
        """Send and receive until something is decided: replied, timed out, cancelled or gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_fd, select.POLLIN)
        poll.register(self._channel, select.POLLIN | (select.POLLOUT if exchange.unsent else 0))
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timed out"
            for number, _ in poll.poll(left * 1000 + 1):
                if number == wake_fd:
                    with suppress(BlockingIOError):
                        os.read(wake_fd, 4096)
                    if woken():
                        return "cancelled"
                elif number == self._control.fileno():
                    self._hear(exchange)
                else:
                    self._send(exchange)
                    self._receive(exchange)
                    if not exchange.unsent:
                        poll.modify(self._channel, select.POLLIN)
            if exchange.reply is not None:
                return "replied"
            if exchange.gone or exchange.problem:
                return "gone"

    def _send(self, exchange: _Exchange) -> None:
        try:
            while exchange.unsent:
                sent = self._channel.send(exchange.unsent[0])
                if sent < len(exchange.unsent[0]):
                    exchange.unsent[0] = exchange.unsent[0][sent:]
                else:
                    exchange.unsent.pop(0)
        except BlockingIOError:
            return
        except OSError:
            exchange.gone = True

    def _receive(self, exchange: _Exchange) -> None:
        try:
            while exchange.reply is None:
                piece = self._channel.recv(exchange.reader.wanted())
                if not piece:
                    exchange.gone = True
                    if exchange.reader.started:
                        exchange.problem = "its reply ended in the middle"
                    return
                exchange.reply = exchange.reader.feed(piece)
        except BlockingIOError:
            return
        except WireError as error:
            exchange.problem = f"what it sent is not a reply: {error}"
            return
        except OSError:
            exchange.gone = True
            return
        assert exchange.reply is not None
        exchange.problem = problem_of(exchange.reply, exchange.token)
        if exchange.unsent and not exchange.problem:
            exchange.problem = "it replied before it had read the request"
        if exchange.problem:
            exchange.reply = None

    def _kept_waiting(self, exchange: _Exchange) -> float:
        """Seconds the build was ready to run and something else ran."""
        exchange.waited_s = None
        self._say(late=exchange.token)
        until = time.monotonic() + _LAST_WORDS_S
        while exchange.waited_s is None and not exchange.gone and self._wait_for_news(until):
            self._hear(exchange)
        return exchange.waited_s or 0.0

    def _settle_accounts(self, exchange: _Exchange) -> str:
        """After the reply: what the build took. Asking also shows that the child is still in order."""
        self._say(done=exchange.token)
        until = time.monotonic() + _LAST_WORDS_S
        while not exchange.usage and not exchange.gone and self._wait_for_news(until):
            self._hear(exchange)
        if exchange.usage:
            return "replied"
        # The artefact is whole and its token right; only the child is not one to use again.
        if exchange.reply is not None and not exchange.grown:
            exchange.usage = {"resident": 2**62, "peak": 0, "tail": ""}
            return "replied"
        return "gone"

    def _last_words(self, exchange: _Exchange) -> None:
        """Have the child killed and take from its warden how it ended and what it printed."""
        until = time.monotonic() + _LAST_WORDS_S
        if exchange.gone and not exchange.problem:
            # It is dying by itself. Killing it now could hide how.
            grace = min(until, time.monotonic() + 1.0)
            while exchange.exit is None and self._wait_for_news(grace):
                if not self._hear(exchange):
                    break
        if exchange.exit is None:
            if exchange.gone and not exchange.grown:
                exchange.problem = exchange.problem or "it closed its channel"
            self._say(kill=True)
        while exchange.exit is None and self._wait_for_news(until):
            if not self._hear(exchange):
                break

    def _wait_for_news(self, until: float) -> bool:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        return bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))

    def _hear(self, exchange: _Exchange) -> bool:
        """Take what the warden says; False once it is gone."""
        try:
            piece = self._control.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            piece = b""
        if not piece:
            exchange.gone = True
            if exchange.exit is None:
                exchange.problem = exchange.problem or "its warden is gone"
            return False
        *lines, self._lines = (self._lines + piece).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["event"] == "usage" and message["token"] == exchange.token:
                exchange.usage = message
            elif message["event"] == "waited" and message["token"] == exchange.token:
                exchange.waited_s = float(message["seconds"])
            elif message["event"] == "memory":
                exchange.grown = int(message["resident"])
                exchange.gone = True
            elif message["event"] == "exit":
                exchange.exit = message
                exchange.gone = True
        return True

    def _say(self, **message: Any) -> None:
        with suppress(OSError):  # the warden is gone: whoever reads from it next will notice
            self._control.send(json.dumps(message).encode() + b"\n")
