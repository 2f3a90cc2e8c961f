"""Sessions are closed, and memory given back, in a thread of its own, once for all that go together."""

import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable

import pytest

from djinn_fx.engines.bound import closing
from djinn_fx.engines.bound.closing import CLOSER, Closer


class Session:
    """Tells in which thread it is closed."""

    def __init__(self, closed: list[int]) -> None:
        self._closed = closed

    def __del__(self) -> None:
        self._closed.append(threading.get_ident())


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads in which memory was given back: once a batch, and a batch ends where somebody waits for it."""
    threads: list[int] = []
    monkeypatch.setattr(closing, "BATCH_S", 60)
    monkeypatch.setattr(closing, "AGAIN_S", 600)
    of_a_test(monkeypatch, lambda: threads.append(threading.get_ident()))
    return threads


def of_a_test(monkeypatch: pytest.MonkeyPatch, told: Callable[[], object]) -> None:
    """Have told when a test's own closer gives back memory: the process's may still be at what earlier tests left."""
    monkeypatch.setattr(
        closing.procfs, "give_back", lambda: told() if threading.current_thread() is not CLOSER._thread else None
    )


def test_a_session_is_closed_and_its_memory_given_back_in_another_thread(given_back: list[int]) -> None:
    closer, closed = Closer(), []
    closer.start()

    closer.let_go(Session(closed))
    closer.wait()

    assert len(closed) == len(given_back) == 1
    assert threading.get_ident() not in (*closed, *given_back)


def test_memory_is_given_back_once_for_all_that_go_together(given_back: list[int]) -> None:
    closer, closed = Closer(), []
    for _ in range(3):
        closer.let_go(Session(closed), Session(closed))

    closer.wait()

    assert len(closed) == 6
    assert len(given_back) == 1


def test_what_somebody_else_freed_is_given_back_too(given_back: list[int]) -> None:
    closer = Closer()
    closer.start()

    closer.let_go()
    closer.wait()

    assert len(given_back) == 1


def test_code_stays_where_nothing_was_opened(given_back: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call would have to bring it back."""
    code: list[int] = []
    monkeypatch.setattr(closing.procfs, "give_back_code", lambda folders: code.append(threading.get_ident()))
    closer = Closer()
    closer.freed()
    closer.wait()
    of_ours = set(given_back)
    assert len(given_back) == 1
    assert not of_ours & set(code)

    closer.let_go()
    closer.wait()
    assert of_ours & set(code)


def test_what_was_still_under_way_is_given_back_a_little_later(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = threading.Semaphore(0)
    monkeypatch.setattr(closing, "AGAIN_S", 0.01)
    of_a_test(monkeypatch, given_back.release)
    closer = Closer()

    closer.let_go()  # one batch, as nothing more comes: who waits for it may come so late as to be another
    closer.start()

    assert given_back.acquire(timeout=20)
    assert given_back.acquire(timeout=20)
    assert not given_back.acquire(timeout=0.2)


def test_nothing_is_closed_where_it_is_let_go_of_even_before_there_is_a_thread(given_back: list[int]) -> None:
    closer, closed = Closer(), []

    closer.let_go(Session(closed))

    assert not closed
    closer.wait()
    assert len(closed) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_closes_its_own_sessions_and_none_of_its_parents() -> None:
    closer, closed = Closer(), []
    session = Session(closed)
    kept = weakref.ref(session)
    closer.let_go(session)
    del session

    def child() -> None:
        own: list[int] = []
        closer.let_go(Session(own))
        closer.wait()
        os._exit(0 if len(own) == 1 and kept() is not None else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    closer.wait()

    assert process.exitcode == 0
    assert len(closed) == 1
