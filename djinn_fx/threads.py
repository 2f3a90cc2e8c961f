"""Threads and locks of ours that neither the interpreter's end nor a fork finds in the middle of something.

**The end.** A daemon thread that is inside a library when the interpreter is torn down is unwound there, which ends the
process by ``std::terminate`` (exit code 134), or prints a traceback. So threads are started by :func:`start_thread`.
When the interpreter ends, before the exit handlers of any library they use, nothing new is begun, what :func:`at_end`
was told is done (child processes are killed), and the threads are waited for, ``PATIENCE_S`` at most. A library that is
still busy then cannot be stopped: the process keeps its exit code and leaves without the library's own goodbye.

**A fork.** In the child only the thread that forked goes on. A lock that another thread held would never be let go, and
what another thread was doing would never be done. So locks are made by :func:`new_lock` and its like, which are free in
the child, and whoever waits for a thread of its own is told by :func:`tell_of_fork`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

from djinn_fx.freed import give_back_own

#: Seconds that the end of the interpreter waits for threads of ours, all together.
PATIENCE_S = 0.7
#: Priority of what is done beside the user's calls: a thirtieth of a busy processor. Less would be a risk: who holds
#: the interpreter, or a lock of the C library's, must get on.
NICE = 15
#: A threshold of full collections that is not reached.
_NEVER = 1 << 30
#: See ``_Beside``; what the interpreter does by itself.
SWITCH_S, _USUAL_S = 0.0005, 0.005
#: Set when the interpreter ends: who waits in a thread of ours waits for this too.
ENDING = threading.Event()

_running: set[threading.Thread] = set()
_compiling: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_awaited: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_last_deeds: list[Callable[[], None]] = []
#: See :func:`inherit`.
Inherited = Callable[[bool], Callable[[], None] | None]
_heritage: list[Inherited] = []


def inherit(given: Inherited) -> None:
    """Have what threads inherit from the one that starts them told by this function.

    Args:
        given: called in the thread that starts another, with whether that one serves what this one does; gives what is
            to be done first in it, or None.
    """
    _heritage.append(given)


def start_thread(
    work: Callable[[], None],
    name: str,
    *,
    compiles: bool = False,
    serves: bool = False,
    beside: bool = False,
    awaited: bool = False,
) -> threading.Thread | None:
    """Do something in a thread; None if none can be started any more (the interpreter ends, or there are too many).

    Args:
        work: what to do.
        name: of the thread.
        compiles: it runs compilers, which are to be ended with it.
        serves: it makes something ready for the thread that starts it: where that is a device's, it is one too.
        beside: it is one piece of work beside the user's calls: such are done one after the other, and hand over the
            interpreter at once. Must not wait for another one.
        awaited: a call waits for it, or is answered by own ops until it is done: others do not go first
            (:func:`let_others_go_first`), and it waits for no turn but those of its like.
    """
    if ENDING.is_set():
        return None
    first = [deed for given in _heritage if (deed := given(serves)) is not None]

    def run() -> None:
        try:
            for deed in first:
                deed()
            with _Beside.turn(awaited) if beside else contextlib.nullcontext(True) as its_turn:
                if its_turn:
                    work()
            if not ENDING.is_set():
                give_back_own()  # nobody comes by it later
        finally:
            _running.discard(thread)

    thread = threading.Thread(target=run, name=name, daemon=True)
    _running.add(thread)
    if compiles:
        _compiling.add(thread)
    if awaited:
        _awaited.add(thread)
    # Exit handlers run in the opposite order: ours before those of the libraries that are there now.
    atexit.unregister(_end)
    atexit.register(_end)
    try:
        thread.start()
    except RuntimeError:
        _running.discard(thread)
        return None
    return thread


def is_awaited() -> bool:
    """Whether others do not go first of this thread, as calls wait for what it does."""
    return threading.current_thread() in _awaited


def let_others_go_first() -> None:
    """Lower the priority of this thread, for good, if it is one of ours and no call waits for it.

    Threads that it starts from here on have that priority too: a library whose threads are to answer calls must have
    started them before.
    """
    if sys.platform == "linux" and threading.current_thread() in _running and not is_awaited():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class _Beside:
    """Who works beside the calls: one at a time, or calls would be slowed down by several at once.

    What calls wait for has turns of its own, or it would wait for what lets the calls go first. Meanwhile the
    interpreter is given to a thread that asks for it within :data:`SWITCH_S`, not the usual 5 ms: a call asks for it
    some ten times.
    """

    #: Held by who has its turn: of what lets calls go first, and of what they wait for.
    turns: ClassVar[tuple[threading.Lock, threading.Lock]] = (threading.Lock(), threading.Lock())
    #: The threads that wait for a turn of the former.
    waiting: ClassVar[set[int]] = set()
    #: How many have their turn, and what the interpreter does without them.
    at_work, usual_s = 0, _USUAL_S
    counting = threading.Lock()

    @classmethod
    @contextlib.contextmanager
    def turn(cls, awaited: bool) -> Iterator[bool]:
        """Wait for one's turn; whether it came before the interpreter's end."""
        lock, own = cls.turns[awaited], threading.get_ident()
        if not awaited:
            cls.waiting.add(own)
        try:
            while not lock.acquire(timeout=0.1):
                if ENDING.is_set():
                    yield False
                    return
        finally:
            cls.waiting.discard(own)
        try:
            cls._count(1)
            yield not ENDING.is_set()
        finally:
            cls._count(-1)
            lock.release()

    @classmethod
    def _count(cls, more: int) -> None:
        """One more, or less, is at work: the interpreter is handed over at once while there is one."""
        with cls.counting:
            if not cls.at_work:
                cls.usual_s = sys.getswitchinterval()
            cls.at_work += more
            sys.setswitchinterval(min(cls.usual_s, SWITCH_S) if cls.at_work else cls.usual_s)

    @classmethod
    def forked(cls) -> None:
        """Whoever had its turn is not there."""
        if cls.at_work:
            sys.setswitchinterval(cls.usual_s)
        cls.turns, cls.counting, cls.at_work = (threading.Lock(), threading.Lock()), threading.Lock(), 0
        cls.waiting.clear()


def others_wait() -> bool:
    """Whether something is to be done beside the calls once what is done now is over."""
    return bool(_Beside.waiting)


def collect_beside() -> None:
    """Do what garbage collection :func:`old_objects_left_alone` put off, in a thread, while the caller is in a library.

    It takes 0.3 s where torch and a model are, and would be done in one of the next calls.
    """
    if _Garbage.put_off and gc.isenabled():
        _Garbage.put_off = False
        start_thread(_collect, "djinn collects garbage")


class _Garbage:
    """Full collections of garbage in this process.

    Attributes:
        put_off: there was none for a while.
        holders: who wants none now.
        before: the thresholds of older generations without them.
        not_ours: somebody else has frozen objects. Remembered, as counting these looks at each: 0.06 s where torch is.
    """

    put_off = False
    holders = 0
    before = (10, 10)
    not_ours = False
    lock = threading.Lock()

    @classmethod
    def hold(cls) -> None:
        """No full one from here on, nor of the middle generation, whose survivors bring the next full one nearer."""
        with cls.lock:
            cls.holders += 1
            young, *older = gc.get_threshold()
            if cls.holders == 1 and older != [_NEVER, _NEVER]:
                cls.before = older[0], older[1]
                gc.set_threshold(young, _NEVER, _NEVER)

    @classmethod
    def let_go(cls) -> None:
        """As before, once nobody wants none; what was made meanwhile counts as old."""
        with cls.lock:
            cls.holders = max(0, cls.holders - 1)
            young, *older = gc.get_threshold()
            if cls.holders or older != [_NEVER, _NEVER]:  # somebody has set others meanwhile
                return
            gc.set_threshold(young, *cls.before)
            cls.put_off = True
            cls.not_ours = cls.not_ours or gc.get_freeze_count() > 0
            if not cls.not_ours:
                gc.freeze()
                gc.unfreeze()

    @classmethod
    def forked(cls) -> None:
        """Whoever wanted none may not be there."""
        cls.lock = threading.Lock()
        if cls.holders:
            cls.holders = 0
            cls.let_go()


def _collect() -> None:
    gc.collect()


def stand_still_at_the_end() -> None:
    """When the interpreter ends, wait for that, unless this is the main thread; else do nothing.

    Only daemon threads are there then, and what they began needs threads that are over. Who went on by itself would be
    unwound in the middle of a library.
    """
    if ENDING.is_set() and threading.current_thread() is not threading.main_thread():
        threading.Event().wait()


def at_end(deed: Callable[[], None]) -> None:
    """Have something done when the interpreter ends, before threads are waited for."""
    _last_deeds.append(deed)
    atexit.unregister(_end)
    atexit.register(_end)


def _end() -> None:
    ENDING.set()
    until = time.monotonic() + PATIENCE_S
    for deed in _last_deeds:
        deed()
    for thread in _compiling & _running:
        _end_compilers_of(thread)
    left = [thread for thread in list(_running) if not _gone(thread, until)]
    if left and sys.version_info < (3, 14):  # later ones let such a thread sleep
        _leave_without_goodbye()


def _gone(thread: threading.Thread, until: float) -> bool:
    if thread.ident is not None:
        thread.join(max(0.0, until - time.monotonic()))
    return not thread.is_alive()


def _end_compilers_of(thread: threading.Thread) -> None:
    """They would outlive the process."""
    children = Path(f"/proc/self/task/{thread.native_id}/children")
    with contextlib.suppress(OSError, ValueError):
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGTERM)


def _leave_without_goodbye() -> None:
    """Let the process end while a library is at work in a thread, with the exit code that it will have.

    The thread is unwound as soon as it asks for the interpreter; where the library does not allow that, it sleeps from
    then on. Destructors of libraries, which would pull the rug from under it, are not run.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):  # another C library than glibc
        libc: Any = ctypes.CDLL(None)
        runtime: Any = ctypes.CDLL("libstdc++.so.6")
        libc.fflush(None)
        runtime._ZSt13set_terminatePFvvE(ctypes.cast(libc.pause, ctypes.c_void_p))
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)


# Forks


class Forked(Protocol):
    """Somebody who wants to know of forks."""

    def after_fork(self) -> None:
        """In the child: threads that were to do something for this object are not there."""


_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_to_tell: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> threading.Lock:
    """A lock that is free in a forked process."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def new_rlock() -> threading.RLock:
    """A lock that is free in a forked process, unless the thread that forked holds it."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def new_condition() -> threading.Condition:
    """A condition whose lock is free in a forked process, and for which nobody waits there."""
    condition = threading.Condition()
    _locks.add(condition)
    return condition


def tell_of_fork(one: Forked) -> None:
    """Have ``after_fork`` called in every process that is forked from now on, for as long as the object lives."""
    _to_tell.add(one)


def renew(lock: Any) -> None:
    """In a forked process: let go of a lock, unless this thread holds it itself."""
    owned = getattr(lock, "_is_owned", None)
    if owned is None or not owned():
        lock._at_fork_reinit()


def _after_fork() -> None:
    _running.clear()
    _Beside.forked()
    _Garbage.forked()
    for lock in list(_locks):
        renew(lock)
    for one in list(_to_tell):
        one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Collect no garbage among what is there already, for as long as this lasts.

    A model, torch and what Dynamo has traced are so many objects that looking through them takes 0.2 to 0.4 s, and what
    we make meanwhile would have that done more than once. New garbage is collected as always.
    """
    _Garbage.hold()
    try:
        yield
    finally:
        _Garbage.let_go()
