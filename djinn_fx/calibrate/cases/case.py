"""A calibration case, and which are measured on which engines with how many threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from djinn_fx.calibrate.program import CaseProgram
from djinn_fx.settings.engines import EAGER, TRAITS, WHOLE

#: Compiled by whoever measures: seconds each, so they get few cases.
COMPILED = tuple(name for name, traits in TRAITS.items() if traits.generates_code)
#: Own ops, and engines that walk a graph or open a model.
INTERPRETED = (EAGER, *WHOLE)
#: Own ops, and engines with kernels of their own for everything.
RUNTIMES = (EAGER, *(name for name, traits in TRAITS.items() if traits.reads_onnx))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One graph to be measured.

    Attributes:
        name: unique, stable from run to run; shown to people.
        family: cases that differ in sizes only.
        make: gives the program; its tensors are made when it is called.
        engines: that run it.
        one_thread: measured with one thread too.
        quick: part of the short list, which takes a minute.
        quick_build: part of it on :data:`COMPILED` too.
    """

    name: str
    family: str
    make: Callable[[], CaseProgram]
    engines: tuple[str, ...] = (EAGER,)
    one_thread: bool = False
    quick: bool = True
    quick_build: bool = False

    def in_short_list(self, engine: str) -> bool:
        """Whether the short list has it on an engine."""
        return self.quick and (engine not in COMPILED or self.quick_build)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A case on one engine with a number of threads: one sample."""

    case: Case
    engine: str
    threads: int

    @property
    def name(self) -> str:
        """Unique, stable from run to run."""
        return f"{self.engine}/{self.threads}/{self.case.name}"


def tasks(cases: list[Case], engines: tuple[str, ...], threads: tuple[int, ...], *, quick: bool) -> Iterator[Task]:
    """What is to be measured: the engines in the order given, each with all threads, then with one.

    Args:
        cases: see :func:`djinn_fx.calibrate.cases.all.all_cases`.
        engines: those that are here.
        threads: numbers of threads to measure, the usual number first.
        quick: only the short list.
    """
    for engine in engines:
        for count in threads:
            for case in cases:
                wanted = engine in case.engines and (case.in_short_list(engine) or not quick)
                # In the short list nothing that takes seconds to build is built once more for one thread.
                fewer = case.one_thread and not (quick and engine in COMPILED)
                if wanted and (count == threads[0] or fewer):
                    yield Task(case=case, engine=engine, threads=count)
