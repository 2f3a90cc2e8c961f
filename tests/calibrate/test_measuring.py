"""Cases, timing, the measuring process, the journal, the noise floor."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.calibrate import child as child_module
from djinn_fx.calibrate import neighbours, timing
from djinn_fx.calibrate.cases.all import all_cases
from djinn_fx.calibrate.cases.case import Case, Task, tasks
from djinn_fx.calibrate.child import MeasuringChild, Outcome
from djinn_fx.calibrate.journal import Journal, forget
from djinn_fx.calibrate.noise import noise_of
from djinn_fx.calibrate.program import filled, traced
from djinn_fx.calibrate.timing import MAX_BLOCKS, MIN_BLOCKS, Canary, Timed, spread_of, timed, timed_quietly
from djinn_fx.calibrate.worker import callable_of
from djinn_fx.costmodels.profile import Sample
from djinn_fx.costmodels.work.work import WorkGraph
from djinn_fx.settings.table import ENGINE_NAMES

EMPTY = WorkGraph(ops=(), reads=(), escapes=())


def a_sample(time_s: float = 1e-3, **more: Any) -> Sample:
    return Sample(engine="eager", threads=1, label="a", graph=EMPTY, time_s=time_s, spread=0.1, **more)


def case_named(name: str) -> Case:
    return next(case for case in all_cases() if case.name == name)


# Cases


def test_cases_name_known_engines_and_differ() -> None:
    cases = all_cases()
    assert len({case.name for case in cases}) == len(cases)
    assert {engine for case in cases for engine in case.engines} <= set(ENGINE_NAMES)
    assert all(case.family and case.engines for case in cases)


def test_the_short_list_is_part_of_the_long_one() -> None:
    cases, engines = all_cases(), ("eager", "openvino", "inductor")
    short, long = ({t.name for t in tasks(cases, engines, (2, 1), quick=quick)} for quick in (True, False))
    assert short < long


def test_one_thread_is_measured_once_where_there_is_one_only() -> None:
    names = [task.name for task in tasks(all_cases(), ("eager",), (1,), quick=True)]
    assert len(names) == len(set(names))


def some_cases() -> list[Case]:
    """One case of each family; all of them are tried by the long test."""
    by_family = {case.family: case for case in all_cases()}
    return random.Random(0).sample(sorted(by_family.values(), key=lambda case: case.name), 16)


def check_case(case: Case) -> None:
    program = case.make()
    made = traced(program)
    results = callable_of("eager", made)(list(made.arguments))
    again = program.function(*program.weights, *program.inputs)
    assert [one.shape for one in results] == [one.shape for one in again]
    for one in results:
        if one.is_floating_point():
            assert torch.isfinite(one).all(), case.name
    assert not [work.op for work in made.work if work.problem], case.name
    assert len(made.graph.weights) == len(program.weights)


@pytest.mark.parametrize("case", some_cases(), ids=lambda case: case.family)
def test_a_case_runs_and_is_priced(case: Case) -> None:
    check_case(case)


@pytest.mark.exam
def test_every_case_runs_and_is_priced() -> None:
    for case in all_cases():
        check_case(case)


def test_a_program_is_traced_to_the_ops_that_compiling_it_gives() -> None:
    made = traced(case_named("linear m=1 k=256 n=256 x24").make())
    counts = Counter(work.op for work in made.work)
    assert counts["aten.addmm"] == 24
    assert counts["aten.t"] == 24
    assert sum(work.weight_bytes for work in made.work) == 24 * 4 * (256 * 256 + 256)


def test_filled_is_fresh_memory_with_ordinary_values() -> None:
    one, other = filled(3, 100_001), filled(3, 100_001)
    assert one.shape == (3, 100_001)
    assert one.data_ptr() != other.data_ptr()
    assert not torch.equal(one, other)
    assert 0.9 < float(one.std()) < 1.1


# Timing


class Clock:
    """A clock that a call moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", made)
    return made


def moving(clock: Clock, seconds: float) -> Any:
    def call() -> None:
        clock.now += seconds

    return call


def test_short_calls_are_timed_in_blocks(clock: Clock) -> None:
    found = timed(moving(clock, 1e-5), 0.1)
    assert found.median_s == pytest.approx(1e-5)
    assert found.spread == pytest.approx(0.0, abs=1e-9)
    assert found.calls > MAX_BLOCKS * 40


def test_long_calls_are_made_a_few_times_whatever_the_budget(clock: Clock) -> None:
    found = timed(moving(clock, 10.0), 0.1)
    assert found.median_s == pytest.approx(10.0)
    assert found.calls == 3 + MIN_BLOCKS


def test_the_first_call_is_not_counted(clock: Clock) -> None:
    seconds = iter([100.0])

    def call() -> None:
        clock.now += next(seconds, 1e-3)

    assert timed(call, 0.1).median_s == pytest.approx(1e-3)


def test_a_device_is_waited_for(clock: Clock) -> None:
    def finish() -> None:
        clock.now += 1.0

    assert timed(lambda: None, 0.1, finish).median_s == pytest.approx(1.0)


def test_spread_is_half_the_distance_of_the_quartiles() -> None:
    assert spread_of([1.0, 1.0, 1.0, 1.0]) == 0.0
    assert spread_of([0.8, 1.0, 1.0, 1.2]) == pytest.approx(0.15)


STAT = "cpu  {user} 0 10 500 7 0 3 2 0 0\ncpu0 1 2 3\n"


@pytest.mark.parametrize(
    ("ticks", "threads", "cores", "told"),
    [(0, 2, 2, False), (2, 2, 2, False), (30, 2, 2, True), (90, 1, 2, False), (140, 1, 2, True), (900, 2, 64, False)],
)
def test_others_disturb_where_they_take_cores_that_are_needed(
    ticks: int, threads: int, cores: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(neighbours, "_STAT", stat)
    monkeypatch.setattr(neighbours.time, "process_time", lambda: 0.0)
    monkeypatch.setattr(neighbours.os, "sysconf", lambda _: 100)
    stat.write_text(STAT.format(user=1000))
    before = neighbours.reading()
    clock.now += 1.0
    stat.write_text(STAT.format(user=1000 + ticks))
    assert neighbours.disturbed(before, threads, cores) is told


def test_where_the_system_does_not_tell_nothing_is_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_STAT", tmp_path / "none")
    assert neighbours.reading() is None
    assert not neighbours.disturbed(None, 2, 2)


def test_a_disturbed_measurement_is_done_again_and_the_better_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = Canary()
    monkeypatch.setattr(canary, "busy", lambda: False)
    monkeypatch.setattr(timing, "disturbed", lambda *_: False)
    uneven = Timed(median_s=2.0, spread=0.5, calls=9, fastest_s=1.0)
    even = Timed(median_s=1.0, spread=0.0, calls=9, fastest_s=0.99)
    answers = iter([uneven, even])
    monkeypatch.setattr(timing, "timed", lambda *_: next(answers))
    assert timed_quietly(lambda: None, 0.1, canary) is even
    answers = iter([even])
    assert timed_quietly(lambda: None, 0.1, canary) is even  # once is enough


def test_a_machine_that_stays_busy_does_not_stop_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    canary, asked = Canary(), []
    monkeypatch.setattr(canary, "wait", lambda: bool(asked.append(1)))
    monkeypatch.setattr(canary, "busy", lambda: True)
    monkeypatch.setattr(timing, "timed", lambda *_: Timed(median_s=1.0, spread=0.0, calls=9, fastest_s=1.0))
    assert timed_quietly(lambda: None, 0.1, canary).median_s == 1.0
    assert len(asked) == 1 + timing.RETRIES


# The journal


HEAD = {"machine": {"cores": 2}, "threads": [2, 1]}


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Journal(tmp_path, HEAD)
    first.add(0, Outcome(task="a", sample=a_sample(), seconds=1.0))
    first.add(1, Outcome(task="a", why="no", refused=True))
    first.close()
    again = Journal(tmp_path, HEAD)
    assert again.known == first.known
    again.add(2, Outcome(task="a", why="broken"))
    again.close()
    forget(tmp_path)
    forget(tmp_path)
    assert not again.path.exists()


def test_a_journal_cut_in_half_keeps_its_whole_lines(tmp_path: Path) -> None:
    first = Journal(tmp_path, HEAD)
    for name in "abc":
        first.add(0, Outcome(task=name, sample=a_sample()))
    first.close()
    first.path.write_bytes(first.path.read_bytes()[:-40])
    again = Journal(tmp_path, HEAD)
    assert sorted(task for task, _ in again.known) == ["a", "b"]
    again.add(0, Outcome(task="d", why="x"))
    again.close()
    assert sorted(task for task, _ in Journal(tmp_path, HEAD).known) == ["a", "b", "d"]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_journal_of_other_conditions_begins_anew(tmp_path: Path, fresh: bool) -> None:
    first = Journal(tmp_path, HEAD)
    first.add(0, Outcome(task="a", sample=a_sample()))
    first.close()
    again = Journal(tmp_path, HEAD if fresh else {**HEAD, "threads": [4]}, fresh=fresh)
    assert again.known == {}
    assert again.dropped is not fresh


def test_a_journal_that_is_none_is_dropped(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe", b"not json\n", b"[]\n"):
        (tmp_path / "journal.jsonl").write_bytes(content)
        one = Journal(tmp_path, HEAD)
        assert one.known == {}
        one.close()


# Noise


def test_noise_is_the_distance_of_processes_from_their_middle() -> None:
    by_task = {
        "a": [a_sample(1.0), a_sample(1.1), a_sample(0.9)],
        "b": [a_sample(2.0), a_sample(2.0), a_sample(2.0)],
        "c": [a_sample(3.0)],
    }
    found = noise_of(by_task)
    assert found["tasks"] == 2
    assert found["between"] == pytest.approx(0.2 / 3 / 2)
    assert found["between_p90"] == pytest.approx(0.2 / 3)
    assert found["within"] == pytest.approx(0.1)
    assert noise_of({}) == {}
    assert "between" not in noise_of({"c": [a_sample(3.0)]})


# The measuring process


def task(name: str, engine: str = "eager", threads: int = 1) -> Task:
    return Task(case=case_named(name), engine=engine, threads=threads)


def test_the_process_measures_and_tells_refusals() -> None:
    name = "conv2d b=1 3->32 k=3 s=2 g=1 size=224"
    case = replace(case_named(name), engines=("eager",))
    asked = [Task(case=case, engine="eager", threads=1), Task(case=case, engine="nonsense", threads=1)]
    with MeasuringChild() as child:
        found = list(child.measure(asked, 0.01))
        again = list(child.measure([task("small views")], 0.01))
    assert [one.task for one in found] == [f"eager/1/{name}", f"nonsense/1/{name}"]
    sample = found[0].sample
    assert sample is not None
    assert (sample.engine, sample.threads, sample.family) == ("eager", 1, "conv2d")
    assert sample.time_s > 0
    assert sample.graph == traced(case.make()).work
    assert found[1].sample is None
    assert "nonsense" in found[1].why
    assert again[0].sample is not None


def test_a_process_that_hangs_is_stopped_and_the_next_task_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [task("small views"), task("small slices")]
    with MeasuringChild(timeout_s=0.001) as child:
        found = list(child.measure(asked, 0.01))
    assert [one.task for one in found] == [one.name for one in asked]
    assert all("was stopped" in one.why and not one.refused for one in found)


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module.sys, "executable", "/bin/false")
    with MeasuringChild() as child:
        found = list(child.measure([task("small views")], 0.01))
    assert "exit code 1" in found[0].why
