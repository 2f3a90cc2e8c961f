"""Nothing outlives the user's process, however that ends; and a process forked from it leaves its children alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import djinn_fx
from bench.compiling import faulty
from djinn_fx.pool import supervisor
from djinn_fx.pool.supervisor import BuildPool
from tests.forking import in_fork
from tests.pool.support import Waiter, alive, job
from tests.waiting import LONG, until

ROOT = Path(__file__).resolve().parents[2]
START = """
import atexit, os, signal, sys, threading, time
from tests.pool.support import *
pool = pool_of()
"""


_users: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_user_left() -> Iterator[None]:
    yield
    while _users:
        with _users.pop() as user:
            user.kill()


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A user's process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START + script, *arguments]
    pipe = subprocess.PIPE
    _users.append(subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True))
    return _users[-1]


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def sleepers(mark: str) -> list[int]:
    """What faulty builders start and leave behind."""
    found = []
    for pid in alive(mark):
        with suppress(OSError):  # gone meanwhile
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found += [pid] if faulty.SLEEPER.encode() in line else []
    return found


@pytest.mark.parametrize("fault", ["grandchild", "runaway", "ignore-signals", "spin"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_user_process_that_is_killed_leaves_nobody(mark: str, fault: str, how: signal.Signals) -> None:
    user = python("Waiter(pool, job(sys.argv[1])).started.wait(60); print('builds', flush=True); time.sleep(60)", fault)
    assert said(user) == "builds"
    # The user's, a warden, a worker, and what that started.
    starts = fault in ("grandchild", "runaway")
    assert until(lambda: len(alive(mark)) == 3 + starts and len(sleepers(mark)) == starts)
    user.send_signal(how)
    assert user.wait(LONG) == -how
    assert until(lambda: not alive(mark))


def test_nobody_is_left_even_if_a_forked_process_goes_on(mark: str) -> None:
    """One made by a library that does not tell Python: it holds copies of all our channels."""
    user = python(
        "import ctypes; Waiter(pool, job('grandchild')).started.wait(60)\n"
        "if ctypes.PyDLL(None).fork() == 0: time.sleep(60)\n"
        "print('builds', flush=True); time.sleep(60)"
    )
    assert said(user) == "builds"
    user.kill()
    user.wait()
    assert until(lambda: len(alive(mark)) == 1)  # the forked one
    os.kill(alive(mark)[0], signal.SIGKILL)


@pytest.mark.parametrize("fault", ["runaway", "hang-in-c"])
def test_the_interpreter_ends_at_once_and_drops_what_is_built(mark: str, fault: str) -> None:
    user = python("waiter = Waiter(pool, job(sys.argv[1])); waiter.started.wait(60); Waiter(pool, job())", fault)
    assert user.wait(LONG) == 0
    assert alive(mark) == []


def test_the_interpreter_ends_while_a_callback_does_not(mark: str) -> None:
    user = python(
        "told = threading.Event()\n"
        "pool.submit(job(), on_done=lambda outcome: (told.set(), time.sleep(3600)))\n"
        "told.wait(60)"
    )
    assert user.wait(LONG) == 0


def test_a_killed_thread_of_the_user_costs_no_child(mark: str) -> None:
    """The kernel's death signal is about the thread that started a process. No thread of the user's started it."""
    user = python(
        "waiters = []\n"
        "starter = threading.Thread(target=lambda: waiters.append(Waiter(pool, job(seconds=0.5, value=4))))\n"
        "starter.start(); starter.join()\n"
        "first = waiters[0].artefact().header['pid']\n"
        "print(first == Waiter(pool, job()).artefact().header['pid'])"
    )
    assert said(user) == "True"
    user.wait(LONG)


@pytest.mark.parametrize("fault", ["segfault", "leave-at-once"])
def test_a_user_who_ignores_and_blocks_signals_still_hears_how_a_child_died(mark: str, fault: str) -> None:
    user = python(
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))\n"
        "kind = Waiter(pool, job(sys.argv[1])).failure().kind\n"
        "print(kind.value, Waiter(pool, job(value=1)).artefact().header['value'])",
        fault,
    )
    assert said(user) == "crashed 1"
    user.wait(LONG)


class TestForking:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking with threads: that is what is tested
    def test_the_forked_process_has_a_pool_of_its_own(self, pool: BuildPool, mark: str) -> None:
        running = Waiter(pool, job(seconds=2.0, value="parent"))
        assert running.started.wait(LONG)
        idle = Waiter(pool, job()).artefact().header["pid"]

        def check() -> bool:
            fresh = pool.counters.submitted == 0 and pool.pending() == ()
            pool.cancel(running.ticket)  # the parent's, not known here
            built = Waiter(pool, job(value="child")).artefact().header
            pool.close()
            return fresh and built["value"] == "child" and built["pid"] != idle

        assert in_fork(check)
        assert running.artefact().header["value"] == "parent"
        assert idle in alive(mark)
        assert Waiter(pool, job()).artefact()

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_lock_held_while_forking_is_not_held_in_the_forked_process(self, pool: BuildPool) -> None:
        Waiter(pool, job()).artefact()

        def check() -> bool:
            return pool.pending() == () and supervisor.shared_pool().counters.submitted == 0

        with pool._lock, supervisor._shared_lock:
            assert in_fork(check)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_ending_the_forked_process_kills_nobody(self, mark: str) -> None:
        user = python(
            "first = Waiter(pool, job()).artefact().header['pid']\n"
            "pid = os.fork()\n"
            "if pid == 0: sys.exit(0)\n"
            "os.waitpid(pid, 0)\n"
            "print(first == Waiter(pool, job()).artefact().header['pid'])"
        )
        assert said(user) == "True"
        assert user.wait(LONG) == 0


def test_two_processes_and_one_key_make_one_build(mark: str, tmp_path: Path) -> None:
    script = """
import contextlib, filelock
from djinn_fx.pool.jobs import BuildDone, BusyElsewhere
folder = sys.argv[1]

@contextlib.contextmanager
def guard():
    lock = filelock.FileLock(folder + "/lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise BusyElsewhere from None
    try:
        path = folder + "/artefact"
        yield BuildDone(header={}, payload=open(path, "rb").read()) if os.path.exists(path) else None
    finally:
        lock.release()

def keep():
    open(folder + "/artefact", "wb").write(waiter.outcomes[0].payload)

waiter = None
one = job(key="k", guard=guard, seconds=1.0, blobs=(b"payload",), note=folder + "/note")
print("ready", flush=True)
sys.stdin.readline()
ready = threading.Event()
waiter = Waiter(pool, one, lambda: ready.wait() and keep())
ready.set()
print(waiter.artefact().payload, waiter.events, pool.counters.built)
"""
    users = [python(script, str(tmp_path)) for _ in range(2)]
    assert [said(user) for user in users] == ["ready"] * 2
    answers = sorted(user.communicate("go\n", LONG)[0].strip() for user in users)
    assert answers == ["b'payload' ['done'] 0", "b'payload' ['start', 'done'] 1"]
    assert len((tmp_path / "note").read_text("utf-8").splitlines()) == 1


def test_the_current_directory_shadows_nothing_and_torch_is_not_imported(mark: str, tmp_path: Path) -> None:
    for name in ("json", "djinn_fx", "ctypes", "bench"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    script = (
        "from djinn_fx.pool.supervisor import BuildPool\n"
        "os.chdir(sys.argv[1]); sys.path.insert(0, '')\n"
        "pool = BuildPool(limits(), workers={'modules': 'tests.pool.modules:build'}, extra_path=sys.argv[2:])\n"
        "header = Waiter(pool, job(worker='modules')).artefact().header\n"
        "print('torch' in header['modules'], header['djinn_fx'], '' in header['path'])"
    )
    user = python(script, str(tmp_path), str(ROOT))
    assert said(user) == f"False {djinn_fx.__file__} False"
    user.wait(LONG)
