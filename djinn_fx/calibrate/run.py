"""A calibration from beginning to end: what is here, what to measure, measuring, noise, and the profile."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from djinn_fx.calibrate.cases.all import all_cases
from djinn_fx.calibrate.cases.case import COMPILED, INTERPRETED, Task, tasks
from djinn_fx.calibrate.child import MeasuringChild, Outcome
from djinn_fx.calibrate.journal import Journal, forget
from djinn_fx.calibrate.noise import noise_of
from djinn_fx.costmodels.profile import Profile, Sample, conditions, write_profile, write_samples
from djinn_fx.engines.registry import engine
from djinn_fx.files.private import own_folder
from djinn_fx.settings.table import Settings
from djinn_fx.units import now_text

#: In the order in which they are measured, where they are installed.
ENGINES = (*INTERPRETED, *COMPILED)
#: Seconds for a case on an engine, building not counted: less than the first tells little, more tells nothing new.
LEAST_S, MOST_S = 0.02, 0.5
#: Every this many cases, one is measured again by other processes.
NOISE_EVERY = 24
#: Of the time, where there is one round: the rest is for these other processes.
MAIN_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a calibration.

    Attributes:
        folder: where profile, samples and journal go.
        seconds: how long it may take; cases that are left then are left out.
        engines: to be measured.
        threads: numbers of threads, the usual one first.
        quick: the short list.
        rounds: how often each case is measured, each time by another process.
        fresh: forget what an earlier run, stopped half-way, has found.
    """

    folder: Path
    seconds: float
    engines: tuple[str, ...]
    threads: tuple[int, ...]
    quick: bool = True
    rounds: int = 1
    fresh: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is: of ``total`` steps ``done`` are done; ``label`` is the one that was done last."""

    done: int
    total: int
    label: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What measuring gave.

    Attributes:
        samples: one for each task that was measured; the median over the rounds.
        noise: see :mod:`djinn_fx.calibrate.noise`.
        refused: task names and why the engine does not take them.
        failed: task names and what went wrong.
        left: tasks for which there was no time.
        resumed: outcomes that were in the journal.
    """

    samples: tuple[Sample, ...]
    noise: Mapping[str, float]
    refused: Mapping[str, str]
    failed: Mapping[str, str]
    left: int
    resumed: int


def installed_engines(wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The engines that can build and run here, of those wanted."""
    found = []
    for name in ENGINES if wanted is None else wanted:
        can = engine(name, Settings(engine=name)).capability()
        if can.can_build and can.can_run:
            found.append(name)
    return tuple(found)


def usual_threads() -> tuple[int, ...]:
    """The number of threads that torch uses here, and one."""
    return tuple(dict.fromkeys((torch.get_num_threads(), 1)))


def measure(request: Request, tell: Callable[[Progress], None] = lambda _: None) -> Measured:
    """Measure what the request names, going on from a journal of the same conditions.

    Raises:
        StoreError: the folder is not this user's own, or cannot be written.
    """
    own_folder(request.folder)
    here = conditions()
    head = {"machine": dict(here.machine), "versions": dict(here.versions), "threads": list(request.threads)}
    journal = Journal(request.folder, head, fresh=request.fresh)
    resumed = len(journal.known)
    try:
        left = _Run(request, journal, tell).run()
    finally:
        journal.close()
    return replace(_gathered(journal.known), left=left, resumed=resumed)


def profile_of(measured: Measured, request: Request, fit: Callable[[Sequence[Sample]], Mapping[str, Any]]) -> Profile:
    """The profile of what was measured."""
    here = conditions()
    return Profile(
        made=now_text(),
        machine=here.machine,
        versions=here.versions,
        threads=tuple(sorted(request.threads)),
        noise=measured.noise,
        samples=len(measured.samples),
        fitted=fit(measured.samples),
    )


def calibrate(
    request: Request,
    tell: Callable[[Progress], None] = lambda _: None,
    fit: Callable[[Sequence[Sample]], Mapping[str, Any]] | None = None,
) -> tuple[Profile, Measured]:
    """Measure, fit and write the profile; the journal is removed if nothing is left to do.

    Raises:
        StoreError: the folder is not this user's own, or cannot be written.
        ValueError: there are too few samples to fit anything.
    """
    if fit is None:
        from djinn_fx.costmodels.laws.fit import fit as fit_samples

        fit = fit_samples
    found = measure(request, tell)
    if not found.samples:
        raise ValueError(f"nothing was measured in {request.seconds:g} s")
    profile = profile_of(found, request, fit)
    write_samples(found.samples, request.folder)
    write_profile(profile, request.folder)
    if not found.left:
        forget(request.folder)
    return profile, found


class _Run:
    """Measuring: rounds of cases in an order that no drift of the machine follows, then the noise between processes."""

    def __init__(self, request: Request, journal: Journal, tell: Callable[[Progress], None]) -> None:
        self._request, self._journal, self._tell = request, journal, tell
        self._began = time.monotonic()
        every = list(tasks(all_cases(), request.engines, request.threads, quick=request.quick))
        self._groups = _by_case(every)
        self._noise = [group[:1] for group in self._groups[::NOISE_EVERY] if group[0].engine not in COMPILED]
        self._total = request.rounds * len(every) + 2 * len(self._noise)
        self._done = 0

    def run(self) -> int:
        """How many tasks are left when the time is up."""
        left, rounds = 0, self._request.rounds
        for turn in range(rounds):
            left += self._round(turn, self._groups, MAIN_SHARE if rounds == 1 else 1.0)
        for turn in range(rounds, max(rounds, 3)):
            self._round(turn, self._noise, 1.0)
        return left

    def _round(self, turn: int, groups: Sequence[list[Task]], share: float) -> int:
        """Measure each group that is not in the journal, until so much of the time is spent; how many were left."""
        left = 0
        with MeasuringChild() as child:
            for group in groups:
                wanted = [task for task in group if (task.name, turn) not in self._journal.known]
                self._done += len(group) - len(wanted)
                if self._remaining(share) <= 0:
                    left += len(wanted)
                    continue
                if not wanted:
                    continue
                for outcome in child.measure(wanted, self._budget()):
                    self._journal.add(turn, outcome)
                    self._done += 1
                    self._tell(Progress(done=self._done, total=self._total, label=outcome.task))
        return left

    def _remaining(self, share: float = 1.0) -> float:
        return share * self._request.seconds - (time.monotonic() - self._began)

    def _budget(self) -> float:
        """Seconds for the next task: half of an equal share of what remains; the rest goes to tracing and building."""
        share = self._remaining() / max(1, self._total - self._done)
        return min(MOST_S, max(LEAST_S, share / 2))


def _by_case(every: Sequence[Task]) -> list[list[Task]]:
    """Tasks of one case together, since they share its tracing, shuffled; engines that are slow to build come last."""
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in every:
        groups.setdefault((task.case.name, task.engine if task.engine in COMPILED else ""), []).append(task)
    found = list(groups.values())
    random.Random(0).shuffle(found)
    # One build by Inductor takes as long as a hundred other samples: in a minute it would be at their cost.
    return sorted(found, key=lambda group: group[0].engine in COMPILED)


def _gathered(known: Mapping[tuple[str, int], Outcome]) -> Measured:
    by_task: dict[str, list[Sample]] = {}
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    for (task, _), outcome in known.items():
        if outcome.sample is not None:
            by_task.setdefault(task, []).append(outcome.sample)
        else:
            (refused if outcome.refused else failed)[task] = outcome.why
    samples = []
    for found in by_task.values():
        middle = statistics.median(one.time_s for one in found)
        samples.append(replace(found[0], time_s=middle, spread=statistics.median(one.spread for one in found)))
    return Measured(samples=tuple(samples), noise=noise_of(by_task), refused=refused, failed=failed, left=0, resumed=0)
