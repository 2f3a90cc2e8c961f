"""A Ray instance to have workers in: one of our own on this machine, or one that is there already."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from djinn_fx.errors import EngineError, SettingsError
from djinn_fx.files import interpreter
from djinn_fx.remote.workers import guardian
from djinn_fx.settings.workers import WorkersAt
from djinn_fx.threads import at_end

log = logging.getLogger("djinn_fx.remote")

#: Ray's custom resource for one worker. A cluster's nodes are started with as many as workers are to run there.
RESOURCE = "djinn_worker"
#: Seconds that Ray may take to start here; 7 to 10 are usual.
START_S = 120.0
#: Seconds that a Ray which is there may take to let this process in. Ray itself would try a wrong token for a minute.
JOIN_S = 30.0
#: Longest name of a folder for temporary files: Ray puts 80 more in front of sockets' names, which end at 107.
_PREFIX = 16
_TOKEN, _MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"
#: Where others look for a token that Ray's own commands made.
_TOKEN_PATHS = ("RAY_AUTH_TOKEN_PATH",)
#: Largest object store of a Ray of our own: what is under way between workers, weights while they are sent.
_STORE_BYTES = 2 * 2**30
#: What a Ray of ours is told by its environment: it reports to nobody, and does not warn of what we did not ask.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_enable_metrics_collection": "0",
}
#: What a process that connects to a Ray is told besides: to outlive it. Ray would end it after a minute without.
_OUTLIVES = {"RAY_gcs_rpc_server_reconnect_timeout_s": "1000000000"}
#: Whether a Ray lets a process in, tried in one that can be ended.
_PROBE = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
import ray
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False, namespace="djinn_fx")
ray.shutdown()
"""


class Cluster:
    """A Ray instance that this process is connected to. One at a time in a process, as Ray has it.

    Args:
        at: where.

    Raises:
        EngineError: Ray is not installed, does not start, or does not let us in.
        SettingsError: the process is connected to another Ray, or there is no token for the one that is there.

    Attributes:
        workers: how many workers it has room for.
        ours: whether it was started for this process, and ends with it.
    """

    def __init__(self, at: WorkersAt) -> None:
        ray = imported()
        self.ours = at.local > 0
        self._guardian: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._joined = False
        self._mark = ""
        self._core: tuple[int, ...] = ()
        if ray.is_initialized():
            if self.ours:
                raise SettingsError(
                    "workers: this process is connected to a Ray already; write workers='auto' to use that one, or "
                    "call ray.shutdown() first"
                )
        elif self.ours:
            self._start(at.local)
        else:
            self._join(at.address)
        try:
            self.workers = at.local or self._room()
        except BaseException:
            self.close()
            raise
        at_end(self.close)

    def _start(self, workers: int) -> None:
        """Start a Ray of our own, and connect to it."""
        token = secrets.token_hex(32)
        short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _PREFIX else "/tmp"
        folder = Path(tempfile.mkdtemp(prefix="djinn-", dir=short))  # for this user alone
        self._folder, self._mark = folder, secrets.token_hex(8)
        reads, writes = os.pipe()
        given = {
            "folder": str(folder),
            "workers": workers,
            "cpus": max(workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1),
            "object_store_bytes": max(128 * 2**20, min(_STORE_BYTES, _memory_bytes() // 10)),
            "resource": RESOURCE,
            "out": writes,
        }
        environment = {**os.environ, **_QUIET, _MODE: "token", _TOKEN: token, guardian.MARK: self._mark}
        try:
            self._guardian = subprocess.Popen(
                interpreter.command(
                    "djinn_fx.remote.workers.guardian:main", given, list(map(os.path.abspath, sys.path))
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(writes,),
                env=environment,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
            os.close(writes)
            said = _line(reads, START_S)
        finally:
            os.close(reads)
        self._core = guardian.core_of(said)
        if "address" not in said:
            self.close()
            raise EngineError(f"Ray does not start on this machine: {said.get('error', 'it says nothing')}")
        try:
            self._connect(said["address"], token)
        except BaseException:
            self.close()
            raise

    def _join(self, address: str) -> None:
        """Connect to a Ray that is there.

        Raises:
            SettingsError: no token, or Ray's client, which has no concurrency groups: a worker could not be asked
                whether it is alive while it works.
            EngineError: it does not let us in, or not in time.
        """
        if address.startswith("ray://"):
            raise SettingsError(
                f"workers: Ray's client ({address}) cannot ask a worker how it is while that works; run on a node of "
                "the cluster, with workers=HEAD:6379 (ray start --address HEAD:6379 --num-cpus 0 makes a node)"
            )
        if not (os.environ.get(_TOKEN) or any(map(os.environ.get, _TOKEN_PATHS)) or _default_token().exists()):
            raise SettingsError(
                f"workers: {address} is joined with a token alone: set {_TOKEN}, or {_TOKEN_PATHS[0]} to a file with "
                "it; start the cluster with RAY_AUTH_MODE=token and the same token (docs/remote_workers.md)"
            )
        _is_let_in(address)
        try:
            self._connect(address)
        except Exception as error:
            self.close()
            raise EngineError(f"the Ray at {address} does not let us in: {type(error).__name__}: {error}") from error

    def _connect(self, address: str, token: str | None = None) -> None:
        """Connect, with a token of ours or the one that this process's environment tells."""
        ray = imported()
        told = {**_QUIET, **_OUTLIVES, _MODE: "token", **({_TOKEN: token} if token is not None else {})}
        before = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        try:
            _look_at_the_environment_again()
            ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="djinn_fx")
        finally:  # what we set is nothing for programs that the user starts
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        self._joined = True

    def _room(self) -> int:
        """For how many workers a cluster was started.

        Raises:
            SettingsError: for none.
        """
        found = int(imported().cluster_resources().get(RESOURCE, 0))
        if not found:
            raise SettingsError(
                f"workers: this Ray has no room for workers; start its nodes with ray start --resources "
                f"'{{\"{RESOURCE}\": 1}}', one for each worker that is to run there"
            )
        return found

    @property
    def alive(self) -> bool:
        """Whether this process is connected to it, and it is there: what is asked of one that is not never ends."""
        there = self._guardian is None or (self._guardian.poll() is None and guardian.runs(self._core))
        return there and bool(imported().is_initialized())

    def close(self) -> None:
        """Leave it; one of our own is ended, with all its processes and files. Any number of times."""
        if self._joined:
            self._joined = False
            with contextlib.suppress(Exception):  # whatever is left of it, we are done with it
                imported().shutdown()
        held, self._guardian = self._guardian, None
        if held is not None:
            assert held.stdin is not None
            with contextlib.suppress(OSError):
                held.stdin.close()  # it ends Ray then
            try:
                held.wait(2 * guardian.PATIENCE_S)
            except subprocess.TimeoutExpired:
                held.kill()
                held.wait()
            for pid in guardian.marked(self._mark):  # the guardian was killed before it was done
                with contextlib.suppress(OSError):
                    os.kill(pid, 9)
        if self._folder is not None:
            guardian.remove(self._folder)
            self._folder = None


def imported(name: str = "ray") -> Any:
    """Ray, or a module of it.

    Raises:
        EngineError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError("workers run on Ray, which is not installed: pip install 'djinn-fx[ray]'") from error


def _is_let_in(address: str) -> None:
    """See whether a Ray would let this process in, which could not be left once it tries itself.

    Raises:
        EngineError: it does not, or not within :data:`JOIN_S`.
    """
    path = json.dumps([os.path.abspath(one) for one in sys.path])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address, path],
            env={**os.environ, **_QUIET, _MODE: "token"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=JOIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"no answer within {JOIN_S:.0f} s: its token is another one, or no Ray is there"
    else:
        if not done.returncode:
            return
        why = (done.stderr.strip().splitlines() or [f"Ray's process ended with {done.returncode}"])[-1][:300]
    raise EngineError(f"the Ray at {address} does not let us in: {why}")


def _look_at_the_environment_again() -> None:
    """Ray reads whether there are tokens when it is imported, and a token once; both may have come since."""
    with contextlib.suppress(ImportError, AttributeError):  # where that has moved, it says itself that it lacks a token
        private = imported("ray._raylet")
        private.Config.initialize("")
        private.AuthenticationTokenLoader.instance().reset_cache()


def _default_token() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _line(descriptor: int, timeout_s: float) -> dict[str, str]:
    """The line of JSON that comes out of a pipe; empty if none does."""
    until, got = time.monotonic() + timeout_s, b""
    while not got.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        piece = os.read(descriptor, 65536) if ready else b""
        if not piece:
            return {}
        got += piece
    found = json.loads(got)
    return found if isinstance(found, dict) else {}
