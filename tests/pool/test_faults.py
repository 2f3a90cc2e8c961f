"""Every way a builder can fail costs that build, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter

import pytest

from bench.compiling import faulty
from djinn_fx.pool import process, supervisor
from djinn_fx.pool.jobs import BuildDone, BuildFailed, FailureKind
from djinn_fx.pool.supervisor import BuildPool
from tests.pool.support import MIB, Waiter, alive, job, pool_of

KINDS = {
    **dict.fromkeys(faulty.DEADLY, FailureKind.CRASHED),
    **dict.fromkeys(faulty.ENDLESS, FailureKind.TIMED_OUT),
    "out-of-memory": FailureKind.OUT_OF_MEMORY,
    "raise": FailureKind.REFUSED,
    "refuse": FailureKind.REFUSED,
    "unsendable": FailureKind.REFUSED,
}


def test_every_fault_has_a_kind() -> None:
    assert set(faulty.FAULTS) - set(KINDS) == {"none", "work", "chatter", *faulty.GREEDY}


@pytest.mark.parametrize("fault", sorted(KINDS))
def test_a_fault_is_told_and_the_next_job_is_built(pool: BuildPool, fault: str) -> None:
    """The fixture then asserts that nothing is alive and no file is open."""
    timeout_s = 0.7 if fault in faulty.ENDLESS else 60.0
    failed = Waiter(pool, job(fault, timeout_s=timeout_s, value={}))
    assert failed.failure().kind is KINDS[fault], failed.failure()
    assert failed.events == ["start", "done"]
    good = Waiter(pool, job(value=[1, "two"], blobs=(b"a", b"", b"bc")))
    assert good.artefact().header["value"] == [1, "two"]
    assert good.artefact().payload == b"abc"


@pytest.mark.parametrize("fault", ["grandchild", "runaway", "kill-warden-runaway", "orphan-then-segfault"])
def test_what_a_dead_builder_had_started_is_dead_too(pool: BuildPool, mark: str, fault: str) -> None:
    Waiter(pool, job(fault, timeout_s=1.0)).failure()
    assert alive(mark) == []  # at once: the outcome comes when the child is gone


def test_too_much_memory_is_stopped(pool: BuildPool) -> None:
    small = Waiter(pool, job("hog", memory_bytes=8 * MIB, bytes=4096 * MIB))
    assert small.failure().kind is FailureKind.OUT_OF_MEMORY


def test_memory_of_what_a_builder_starts_counts(mark: str) -> None:
    pool = pool_of(memory_bytes=300 * MIB)
    failure = Waiter(pool, job("hog-in-grandchild", bytes=4096 * MIB)).failure()
    assert failure.kind is FailureKind.OUT_OF_MEMORY
    assert alive(mark) == []
    pool.close()


def test_peak_memory_is_measured_anew_for_each_build(pool: BuildPool) -> None:
    peaks = [
        Waiter(pool, job("hog", bytes=size * MIB, hold=0.0, memory_bytes=512 * MIB)).artefact().peak_bytes
        for size in (128, 16)
    ]
    assert peaks[0] > 128 * MIB > peaks[1] > 16 * MIB


def test_time_that_others_took_the_processor_is_not_counted(mark: str) -> None:
    """One core, and on it a process that goes before: the build gets a third of it, or less."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        pool = pool_of(nice=5)
        Waiter(pool, job()).artefact()  # the child is there
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
            outcome = Waiter(pool, job("work", cpu=0.6, timeout_s=1.5)).outcome()
            other.kill()
        pool.close()
    finally:
        os.sched_setaffinity(0, cores)
    assert isinstance(outcome, BuildDone), outcome


def test_a_refusal_says_what_the_builder_said(pool: BuildPool) -> None:
    failure = Waiter(pool, job("refuse")).failure()
    assert (failure.detail, failure.stage, failure.node) == ("no such layer", "convert", "conv_3")


def test_what_a_dead_builder_printed_last_is_in_the_failure(pool: BuildPool) -> None:
    assert "about to abort" in Waiter(pool, job("abort")).failure().detail


def test_much_output_stops_nobody(pool: BuildPool) -> None:
    assert Waiter(pool, job("chatter", value=1)).artefact().header["value"] == 1


def test_a_child_that_refused_is_used_again_and_one_that_crashed_is_not(pool: BuildPool) -> None:
    pids = []
    for fault in ("refuse", "segfault"):
        before = Waiter(pool, job()).artefact().header["pid"]
        Waiter(pool, job(fault)).failure()
        pids.append(before == Waiter(pool, job()).artefact().header["pid"])
    assert pids == [True, False]


def test_replies_have_a_largest_size() -> None:
    pool = pool_of(reply_bytes=MIB)
    assert Waiter(pool, job(size=MIB)).artefact().payload == bytes(MIB)
    assert Waiter(pool, job(size=MIB + 1)).failure().kind is FailureKind.REFUSED
    # One that does not keep to it is not believed.
    assert Waiter(pool, job("boast")).failure().kind is FailureKind.CRASHED
    pool.close()


def test_large_requests_and_replies_arrive_whole(pool: BuildPool) -> None:
    blobs = (bytes(range(256)) * 4096, b"", b"x" * (20 * MIB + 1))
    assert Waiter(pool, job(blobs=blobs)).artefact().payload == b"".join(blobs)


def test_a_large_request_to_a_child_that_does_not_read_it_is_bounded_in_time(
    pool: BuildPool, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, patience in ((process, "_LAST_WORDS_S"), (supervisor, "_BURY_S")):  # a stopped warden says nothing
        monkeypatch.setattr(module, patience, 0.2)
    Waiter(pool, job()).artefact()
    for pid in alive(mark):
        os.kill(pid, signal.SIGSTOP)  # the worker, and its warden too
    stuck = Waiter(pool, job(blobs=(bytes(64 * MIB),), timeout_s=0.1))
    assert stuck.failure().kind is FailureKind.TIMED_OUT
    assert Waiter(pool, job()).artefact()


@pytest.mark.parametrize("function", ["no_such_module:build", "bench.compiling.faulty:no_such_function", "json:dumps"])
def test_a_worker_that_is_none_refuses(function: str) -> None:
    pool = pool_of({"none": function})
    assert Waiter(pool, job(worker="none")).failure().kind is FailureKind.REFUSED
    assert Waiter(pool, job(worker="unheard of")).failure().kind is FailureKind.REFUSED
    pool.close()


def test_a_request_that_is_not_json_is_refused(pool: BuildPool) -> None:
    assert Waiter(pool, job(value=object())).failure().kind is FailureKind.REFUSED
    assert Waiter(pool, job()).artefact()


@pytest.mark.parametrize("count", [40, pytest.param(100, marks=pytest.mark.exam)])
def test_many_faults_among_good_jobs(pool: BuildPool, mark: str, count: int) -> None:
    """All good ones arrive once, right; all bad ones fail; the counters add up."""
    chosen = random.Random(7)
    names = [chosen.choice(sorted(KINDS)) for _ in range(count)] + ["none"] * 60
    chosen.shuffle(names)
    waiters = [
        (name, number, Waiter(pool, job(name, value={"n": number}, timeout_s=0.4 if name in faulty.ENDLESS else 60.0)))
        for number, name in enumerate(names)
    ]
    kinds: Counter[FailureKind] = Counter()
    for name, number, waiter in waiters:
        outcome = waiter.outcome()
        if name == "none":
            assert isinstance(outcome, BuildDone), outcome
            assert outcome.header["value"] == {"n": number}
        else:
            assert isinstance(outcome, BuildFailed), (name, outcome)
            kinds[outcome.kind] += 1
            # A short time may be over before a child has started: the only other thing that may be told.
            assert outcome.kind in (KINDS[name], FailureKind.TIMED_OUT), (name, outcome)
    assert all(waiter.events == ["start", "done"] for _, _, waiter in waiters)
    counters = pool.counters
    assert (counters.submitted, counters.built, counters.queued, counters.building) == (count + 60, 60, 0, 0)
    assert {kind: getattr(counters, kind.value.replace("-", "_")) for kind in kinds} == dict(kinds)
    pool.close()
    assert alive(mark) == []
