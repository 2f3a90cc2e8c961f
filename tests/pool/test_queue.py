"""What runs when: slots, memory, joining, cancelling, other processes; and that children are used again."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_fx.pool import admission, supervisor
from djinn_fx.pool.jobs import BuildDone, BusyElsewhere, FailureKind
from djinn_fx.pool.supervisor import BuildPool
from tests.pool.support import MIB, Waiter, alive, job, pool_of
from tests.waiting import LONG, until


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


def state_of(pool: BuildPool, label: str) -> str | None:
    return {name: state for name, state, _ in pool.pending()}.get(label)


class TestJoining:
    def test_one_key_is_built_once_and_everybody_is_told(self, pool: BuildPool, tmp_path: Path) -> None:
        one = job(key="k", note=str(tmp_path / "note"), seconds=0.5, value=3)
        waiters = [Waiter(pool, one) for _ in range(5)]
        assert waiters[0].started.wait(LONG)
        waiters += [Waiter(pool, one) for _ in range(5)]  # while it runs
        assert waiters[-1].started.wait(LONG)
        assert [waiter.artefact().header["value"] for waiter in waiters] == [3] * 10
        assert all(waiter.events == ["start", "done"] for waiter in waiters)
        assert len(lines(tmp_path / "note")) == 1
        assert (pool.counters.submitted, pool.counters.joined, pool.counters.built) == (10, 9, 1)

    def test_a_key_that_is_done_is_built_again(self, pool: BuildPool, tmp_path: Path) -> None:
        """The pool is no cache."""
        for _ in range(2):
            Waiter(pool, job(key="k", note=str(tmp_path / "note"))).artefact()
        assert len(lines(tmp_path / "note")) == 2


class TestSlots:
    def test_no_more_run_at_a_time_than_there_are_slots(self, pool: BuildPool) -> None:
        waiters = [Waiter(pool, job(seconds=0.3)) for _ in range(6)]
        most = 0
        while not all(waiter.done.is_set() for waiter in waiters):
            most = max(most, pool.counters.building)
            time.sleep(0.005)
        assert most == 2
        assert pool.counters.children_started == 2

    def test_pending_names_what_is_not_done(self, pool: BuildPool) -> None:
        first = [Waiter(pool, job("hang", label=f"first {number}")) for number in range(2)]
        assert all(waiter.started.wait(LONG) for waiter in first)
        Waiter(pool, job(label="next"))
        assert [(label, state) for label, state, _ in pool.pending()] == [
            ("first 0", "building"),
            ("first 1", "building"),
            ("next", "queued"),
        ]
        assert all(seconds >= 0 for _, _, seconds in pool.pending())
        assert (pool.counters.building, pool.counters.queued) == (2, 1)

    def test_an_idle_child_is_used_again_and_goes_after_a_while(self, mark: str) -> None:
        pool = pool_of(idle_s=0.5)
        pids = {Waiter(pool, job()).artefact().header["pid"] for _ in range(5)}
        assert len(pids) == pool.counters.children_started == 1
        assert until(lambda: not alive(mark))
        assert Waiter(pool, job()).artefact().header["pid"] not in pids
        pool.close()

    def test_an_idle_child_that_was_killed_is_replaced(self, pool: BuildPool, mark: str) -> None:
        pid = Waiter(pool, job()).artefact().header["pid"]
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: not alive(mark))
        assert Waiter(pool, job()).artefact().header["pid"] != pid

    def test_a_child_that_kept_much_memory_is_not_used_again(self) -> None:
        pool = pool_of(retire_bytes=1)
        assert len({Waiter(pool, job()).artefact().header["pid"] for _ in range(2)}) == 2
        pool.close()

    def test_a_child_builds_for_one_worker(self) -> None:
        pool = pool_of({"other": "bench.compiling.faulty:build"}, children=1)
        pids = [Waiter(pool, job(worker=name)).artefact().header["pid"] for name in ("faults", "other", "faults")]
        assert pids[0] != pids[1]
        pool.close()


class TestMemory:
    def test_what_can_never_fit_is_told_at_once(self, pool: BuildPool) -> None:
        assert Waiter(pool, job(memory_bytes=1025 * MIB)).failure().kind is FailureKind.NOT_ADMITTED
        assert pool.counters.children_started == 0

    def test_what_the_machine_has_not_is_told_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        free = 100 * MIB
        monkeypatch.setattr(admission, "available_bytes", lambda: free)
        pool = pool_of(check_available=True)
        assert Waiter(pool, job(memory_bytes=101 * MIB)).failure().kind is FailureKind.NOT_ADMITTED
        Waiter(pool, job(memory_bytes=99 * MIB)).artefact()
        pool.close()

    def test_predictions_of_what_runs_fit_together(self, pool: BuildPool) -> None:
        waiters = [Waiter(pool, job(memory_bytes=600 * MIB, seconds=0.1)) for _ in range(3)]
        while not all(waiter.done.is_set() for waiter in waiters):
            assert pool.counters.building <= 1
            time.sleep(0.005)
        assert pool.counters.built == 3

    def test_a_large_job_waits_but_not_for_ever(self, pool: BuildPool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Small ones go past it while it cannot run, so many and no more."""
        monkeypatch.setattr(admission, "OVERTAKES", 3)
        order: list[str] = []
        first = Waiter(pool, job("hang", memory_bytes=600 * MIB))
        assert first.started.wait(LONG)
        large = Waiter(pool, job(memory_bytes=1000 * MIB), lambda: order.append("large"))
        small = [Waiter(pool, job(memory_bytes=MIB), lambda: order.append("small")) for _ in range(6)]
        assert until(lambda: pool.counters.built == 3)
        assert pool.counters.queued == 4
        pool.cancel(first.ticket)
        for waiter in [large, *small]:
            waiter.artefact()
        assert order.index("large") == 3


class TestCancelling:
    def test_a_queued_job_is_dropped(self, tmp_path: Path) -> None:
        pool = pool_of(children=1)
        running = Waiter(pool, job(seconds=0.5))
        queued = Waiter(pool, job(note=str(tmp_path / "note")))
        pool.cancel(queued.ticket)
        running.artefact()
        Waiter(pool, job()).artefact()  # after it in the queue
        assert (queued.events, lines(tmp_path / "note"), pool.counters.cancelled) == ([], [], 1)
        pool.close()

    def test_a_running_build_is_killed(self, pool: BuildPool, mark: str) -> None:
        waiter = Waiter(pool, job("grandchild"))
        assert waiter.started.wait(LONG)
        pool.cancel(waiter.ticket)
        pool.cancel(waiter.ticket)  # twice is as once
        assert until(lambda: not alive(mark))
        assert waiter.events == ["start"]
        assert (pool.pending(), pool.counters.cancelled) == ((), 1)

    def test_a_build_goes_on_while_anybody_wants_it(self, pool: BuildPool) -> None:
        one = job(seconds=0.5)
        waiters = [Waiter(pool, one) for _ in range(3)]
        pool.cancel(waiters[0].ticket)
        pool.cancel(waiters[2].ticket)
        waiters[1].artefact()
        assert [waiter.outcomes == [] for waiter in waiters] == [True, False, True]
        assert pool.counters.cancelled == 0

    def test_a_key_whose_build_was_cancelled_is_built_anew(self, pool: BuildPool) -> None:
        waiter = Waiter(pool, job("hang", key="k"))
        assert waiter.started.wait(LONG)
        pool.cancel(waiter.ticket)
        assert until(lambda: pool.pending() == ())
        assert Waiter(pool, job(key="k", value=2)).artefact().header["value"] == 2

    def test_what_is_done_cannot_be_cancelled(self, pool: BuildPool) -> None:
        waiter = Waiter(pool, job())
        waiter.artefact()
        pool.cancel(waiter.ticket)
        Waiter(pool, job()).artefact()
        assert pool.counters.cancelled == 0

    def test_a_finalizer_may_cancel_anywhere_even_while_the_pool_is_locked(self, pool: BuildPool) -> None:
        class Model:
            pass

        model = Model()
        waiter = Waiter(pool, job("hang"))
        weakref.finalize(model, pool.cancel, waiter.ticket)
        with pool._lock:
            del model
            gc.collect()
        assert until(lambda: pool.counters.cancelled == 1)


class TestGuards:
    def test_an_artefact_that_is_there_after_all_starts_no_child(self, pool: BuildPool) -> None:
        found = BuildDone(header={"from": "disk"}, payload=b"p")

        @contextmanager
        def guard() -> Iterator[BuildDone | None]:
            yield found

        waiter = Waiter(pool, job(guard=guard))
        assert waiter.artefact() is found
        assert waiter.events == ["done"]
        assert (pool.counters.children_started, pool.counters.built) == (0, 0)

    def test_it_is_held_from_before_the_build_until_the_outcome_is_told(self, pool: BuildPool) -> None:
        order: list[str] = []

        @contextmanager
        def guard() -> Iterator[None]:
            order.append("in")
            yield
            order.append("out")

        waiter = Waiter(pool, job(guard=guard), lambda: order.append("told"))
        waiter.artefact()
        assert until(lambda: len(order) == 3)
        assert order == ["in", "told", "out"]

    def test_a_job_that_another_process_builds_takes_no_slot_and_is_tried_again(self) -> None:
        pool = pool_of(children=1)
        free = threading.Event()

        @contextmanager
        def guard() -> Iterator[None]:
            if not free.is_set():
                raise BusyElsewhere
            yield

        busy = Waiter(pool, job(label="busy", guard=guard))
        for _ in range(3):
            Waiter(pool, job()).artefact()
        assert until(lambda: state_of(pool, "busy") == "built elsewhere")
        free.set()
        busy.artefact()
        pool.close()

    def test_a_busy_job_can_be_cancelled(self, pool: BuildPool) -> None:
        def guard() -> AbstractContextManager[None]:
            raise BusyElsewhere

        waiter = Waiter(pool, job(guard=guard))
        pool.cancel(waiter.ticket)
        assert until(lambda: pool.pending() == ())
        assert waiter.events == []

    @pytest.mark.parametrize("where", ["making", "entering", "leaving"])
    def test_one_that_raises_fails_its_job_alone(self, pool: BuildPool, where: str) -> None:
        @contextmanager
        def inner() -> Iterator[None]:
            if where == "entering":
                raise OSError("no locks here")
            yield
            raise OSError("cannot be let go")

        def guard() -> AbstractContextManager[None]:
            if where == "making":
                raise OSError("no guard")
            return inner()

        waiter = Waiter(pool, job(guard=guard))
        if where == "leaving":
            waiter.artefact()
        else:
            assert waiter.failure().kind is FailureKind.CRASHED  # not the builder's word: may be tried again
        Waiter(pool, job()).artefact()
        assert until(lambda: pool.counters.building == 0)


class TestCallbacks:
    @pytest.mark.parametrize("which", ["on_start", "on_done"])
    def test_one_that_raises_is_logged_and_harms_nobody(
        self, pool: BuildPool, which: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("a bug of the caller's")

        one = job(key="k", seconds=0.2)
        calls: dict[str, Callable[..., None]] = {"on_start": lambda: None, "on_done": lambda outcome: None}
        pool.submit(one, **{**calls, which: fail})
        Waiter(pool, one).artefact()
        Waiter(pool, job()).artefact()
        assert any(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)

    def test_they_may_use_the_pool(self, pool: BuildPool) -> None:
        later: list[Waiter] = []
        Waiter(pool, job(), lambda: later.append(Waiter(pool, replace(job(value=8), label="later")))).artefact()
        assert until(lambda: bool(later))
        assert later[0].artefact().header["value"] == 8

    def test_one_that_never_ends_holds_only_its_own_slot(self, pool: BuildPool) -> None:
        never = threading.Event()
        stuck = pool.submit(job(), on_done=lambda outcome: never.wait(LONG) and None)
        for _ in range(3):
            Waiter(pool, job()).artefact()
        assert stuck.key
        never.set()


class TestClosing:
    def test_nobody_waits_for_ever(self, mark: str) -> None:
        pool = pool_of(children=1)
        running = Waiter(pool, job("runaway"))
        assert running.started.wait(LONG)
        queued = Waiter(pool, job())
        pool.close()
        assert alive(mark) == []
        late = Waiter(pool, job())
        assert [waiter.failure().kind for waiter in (running, queued, late)] == [FailureKind.CANCELLED] * 3
        assert pool.pending() == ()
        pool.close()  # twice is as once

    def test_idle_children_go(self, mark: str) -> None:
        pool = pool_of()
        Waiter(pool, job()).artefact()
        pool.close()
        assert alive(mark) == []

    def test_the_shared_pool_is_one_and_another_after_it_was_closed(self) -> None:
        first = supervisor.shared_pool()
        assert supervisor.shared_pool() is first
        first.close()
        assert supervisor.shared_pool() is not first
