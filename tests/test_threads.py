"""Threads and locks of ours at the interpreter's end and after a fork."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from djinn_fx import threads
from djinn_fx.threads import new_condition, new_lock, new_rlock, start_thread, tell_of_fork
from tests.forking import in_fork
from tests.waiting import LONG, until

#: A library that is busy for minutes without the interpreter: it can neither be asked to stop nor interrupted.
BUSY = "import ctypes; from djinn_fx.threads import start_thread; busy = ctypes.CDLL(None).usleep\n"


def ended(program: str) -> tuple[int, str]:
    """Exit code, and what is on stderr, of a program that ends long before a library that is busy."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG, check=False)
    return done.returncode, done.stderr


def hold(lock: threading.Lock | threading.RLock | threading.Condition) -> threading.Event:
    """Have another thread hold a lock until the event is set."""
    held, let_go = threading.Event(), threading.Event()

    def holder() -> None:
        with lock:
            held.set()
            let_go.wait(LONG)

    threading.Thread(target=holder, daemon=True).start()
    assert held.wait(LONG)
    return let_go


# The end


@pytest.mark.parametrize("code", [0, 3])
def test_what_is_short_is_waited_for(code: int) -> None:
    program = f"""
import sys, time
from djinn_fx import threads
from djinn_fx.threads import start_thread
threads.PATIENCE_S = 60  # "short", on a machine that may be busy
def work():
    time.sleep(0.2)
    print("done", file=sys.stderr)
start_thread(work, "short")
sys.exit({code})
"""
    assert ended(program) == (code, "done\n")


@pytest.mark.parametrize("code", [0, 3])
def test_a_busy_library_does_not_hold_up_the_end(code: int) -> None:
    """Nor change the exit code, though its thread comes back while the interpreter is torn down."""
    program = f"{BUSY}start_thread(lambda: busy(600_000_000), 'long')\nraise SystemExit({code})"
    assert ended(program) == (code, "")


def test_output_is_not_lost_with_a_busy_library() -> None:
    program = f"{BUSY}start_thread(lambda: busy(600_000_000), 'long')\nimport sys; sys.stderr.write('last words')"
    assert ended(program) == (0, "last words")


def test_at_the_end_nothing_new_is_begun() -> None:
    program = """
import atexit, sys
from djinn_fx import threads
threads.at_end(lambda: print("deed", threads.ENDING.is_set(), threads.start_thread(print, "late"), file=sys.stderr))
"""
    assert ended(program) == (0, "deed True None\n")


def test_ours_comes_before_the_exit_handlers_of_libraries() -> None:
    program = """
import atexit, sys, time
from djinn_fx import threads
from djinn_fx.threads import start_thread
threads.PATIENCE_S = 60
atexit.register(lambda: print("library", file=sys.stderr))
def work():
    time.sleep(0.2)
    print("thread", file=sys.stderr)
start_thread(work, "short")
"""
    assert ended(program) == (0, "thread\nlibrary\n")


def test_compilers_end_with_the_program() -> None:
    program = """
import subprocess, sys, threading
from djinn_fx.threads import start_thread
begun = threading.Event()
def work():
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    begun.set()
    child.wait()
start_thread(work, "compiles", compiles=True)
begun.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    assert start_thread(lambda: None, "none") is None
    assert not [one for one in threads._running if one.name == "none"]


# A fork


@pytest.mark.parametrize("make", [new_lock, new_rlock])
def test_a_lock_that_another_thread_held_is_free(make: Callable[[], threading.Lock]) -> None:
    lock = make()
    let_go = hold(lock)
    try:
        assert not lock.acquire(blocking=False)
        assert in_fork(lambda: lock.acquire(timeout=LONG))
    finally:
        let_go.set()


def test_a_condition_that_another_thread_held_is_free() -> None:
    condition = new_condition()
    let_go = hold(condition)
    try:
        assert in_fork(lambda: condition.acquire(timeout=LONG))
    finally:
        let_go.set()


def test_a_lock_of_the_thread_that_forks_stays_its_own() -> None:
    lock = new_rlock()
    with lock:
        assert in_fork(lambda: lock.release() is None)


def test_who_asked_is_told_for_as_long_as_it_lives() -> None:
    class Asks:
        told = 0

        def after_fork(self) -> None:
            self.told += 1

    one, gone = Asks(), Asks()
    tell_of_fork(one)
    tell_of_fork(gone)
    del gone
    assert in_fork(lambda: one.told == 1)
    assert one.told == 0


class TestOldObjects:
    def test_they_are_collected_again_afterwards_and_new_garbage_meanwhile(self) -> None:
        class Thing:
            pass

        def cycle() -> weakref.ref[Any]:
            one: Any = Thing()
            one.itself = one
            return weakref.ref(one)

        before = gc.get_threshold()
        with threads.old_objects_left_alone():
            assert gc.get_threshold() == (before[0], threads._NEVER, threads._NEVER)
            made = cycle()
            gc.collect(0)
            assert made() is None
            with threads.old_objects_left_alone():  # another thread's, say
                pass
            assert gc.get_threshold()[2] == threads._NEVER
        assert gc.get_threshold() == before

    def test_what_somebody_else_has_frozen_stays_frozen_and_is_counted_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threads._Garbage, "not_ours", False)
        monkeypatch.setattr(gc, "get_freeze_count", lambda: 7)
        monkeypatch.setattr(gc, "unfreeze", lambda: pytest.fail("thawed"))
        with threads.old_objects_left_alone():
            pass
        monkeypatch.setattr(gc, "get_freeze_count", lambda: pytest.fail("counted again"))
        with threads.old_objects_left_alone():
            pass

    def test_a_threshold_that_somebody_sets_meanwhile_stays(self) -> None:
        before = gc.get_threshold()
        try:
            with threads.old_objects_left_alone():
                gc.set_threshold(500, 5, 7)
            assert gc.get_threshold() == (500, 5, 7)
        finally:
            gc.set_threshold(*before)

    def test_a_forked_process_collects_them_though_its_parent_does_not(self) -> None:
        before = gc.get_threshold()
        with threads.old_objects_left_alone():
            assert in_fork(lambda: gc.get_threshold() == before)
            assert gc.get_threshold() != before


# Beside the calls


def test_what_is_done_beside_the_calls_is_done_one_after_the_other_and_lets_go_of_the_interpreter() -> None:
    usual, seen, most = sys.getswitchinterval(), [], [0]
    at_it = []

    def work() -> None:
        at_it.append(None)
        most[0] = max(most[0], len(at_it))
        seen.append(sys.getswitchinterval())
        at_it.pop()

    made = [start_thread(work, "beside", beside=True) for _ in range(8)]
    for thread in made:
        assert thread is not None
        thread.join(LONG)
    assert (len(seen), most[0]) == (8, 1)
    assert max(seen) <= threads.SWITCH_S * 1.01
    assert sys.getswitchinterval() == usual


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_only_a_thread_of_ours_lets_others_go_first() -> None:
    found: list[int] = []

    def work() -> None:
        threads.let_others_go_first()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    work()
    thread = start_thread(work, "behind")
    assert thread is not None
    thread.join(LONG)
    assert found == [before, threads.NICE]
    awaited = start_thread(work, "in front", awaited=True)
    assert awaited is not None
    awaited.join(LONG)
    assert found[2:] == [before]


def test_what_calls_wait_for_waits_for_no_turn_of_what_lets_them_go_first() -> None:
    usual, let_go, seen = sys.getswitchinterval(), threading.Event(), list[float]()
    at_it, most = list[int](), [0]

    def work() -> None:
        at_it.append(1)
        most[0] = max(most[0], len(at_it))
        seen.append(sys.getswitchinterval())
        threading.Event().wait(0.02)
        at_it.pop()

    def hold() -> None:
        let_go.wait(LONG)

    held = start_thread(hold, "beside", beside=True)
    awaited = [start_thread(work, "awaited", beside=True, awaited=True) for _ in range(4)]
    for thread in awaited:
        assert thread is not None
        thread.join(LONG)
    assert (len(seen), most[0]) == (4, 1)
    assert sys.getswitchinterval() <= threads.SWITCH_S * 1.01  # one is still at work
    let_go.set()
    assert held is not None
    held.join(LONG)
    assert max(seen) <= threads.SWITCH_S * 1.01
    assert sys.getswitchinterval() == usual


def test_who_has_its_turn_is_told_that_others_wait() -> None:
    told, let_go = [threads.others_wait()], threading.Event()
    one = start_thread(lambda: (let_go.wait(LONG), told.append(threads.others_wait())), "beside", beside=True)  # type: ignore[arg-type, return-value]
    two = start_thread(lambda: told.append(threads.others_wait()), "beside", beside=True)
    assert until(threads.others_wait)
    let_go.set()
    for thread in (one, two):
        assert thread is not None
        thread.join(LONG)
    assert told == [False, True, False]


def test_a_forked_process_does_not_wait_for_a_turn_that_its_parent_had() -> None:
    held, let_go = threading.Event(), threading.Event()

    def hold_the_turn() -> None:
        held.set()
        let_go.wait(LONG)

    thread = start_thread(hold_the_turn, "beside", beside=True)
    assert held.wait(LONG)

    def child() -> bool:
        done = threading.Event()
        start_thread(done.set, "beside", beside=True)
        return done.wait(10)

    assert in_fork(child)
    let_go.set()
    assert thread is not None
    thread.join(LONG)


def test_who_needs_threads_that_are_over_stands_still_but_for_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    ending, went_on = threading.Event(), threading.Event()
    monkeypatch.setattr(threads, "ENDING", ending)

    def one() -> None:
        threads.stand_still_at_the_end()
        went_on.set()

    threading.Thread(target=one, daemon=True).start()
    assert went_on.wait(10)
    went_on.clear()
    ending.set()
    threading.Thread(target=one, daemon=True).start()
    assert not went_on.wait(0.2)
    one()
    assert went_on.is_set()
