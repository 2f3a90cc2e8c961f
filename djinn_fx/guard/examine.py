"""One comparison: the engine tried on copies of the arguments, its answer held against eager's and float64's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.engines.base import Declined, RegionCallable, Rounding
from djinn_fx.errors import EngineError
from djinn_fx.guard.compare import Bounds, Miss, alias_miss, gap_of, misses, overlap, span
from djinn_fx.guard.judge import Truth, judge
from djinn_fx.guard.trial import ArgumentWatch, copied

log = logging.getLogger("djinn_fx.guard")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Eager's answer to one call, and what is needed to ask others the same.

    Attributes:
        pristine: the arguments before the call.
        kept: the arguments after eager ran on them.
        expected: eager's results.
        mutated: places of the arguments that a call writes into.
        reference: the region, run eagerly.
        precise: the region in float64, or None.
        bounds: tolerance for each of eager's tensors.
        layouts: by result, strides that are right too.
        rewind: makes random numbers begin as they did for eager.
        measures: a right answer's distance from float64 is to be measured.
        alone: nobody but who compares runs meanwhile: what an engine writes that it must not is put back.
    """

    pristine: Sequence[Any]
    kept: Sequence[Any]
    expected: Sequence[Any]
    mutated: tuple[int, ...]
    reference: RegionCallable
    precise: RegionCallable | None
    bounds: Bounds
    layouts: Sequence[Any] = ()
    rewind: Callable[[], None] = lambda: None
    measures: bool = False
    alone: bool = True


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came out.

    Attributes:
        ran: whether the engine took the arguments at all.
        declined: why it left this call to eager, for its values; empty if it did not.
        failed: its error; empty if there was none.
        wrong: in what its answer is wrong; empty if in nothing.
        found: its results, of the last try.
        rounding: how far they are from float64's; None if that was not measured.
        seconds: of the last try.
    """

    ran: bool = True
    declined: str = ""
    failed: str = ""
    wrong: str = ""
    found: Sequence[Any] = ()
    rounding: Rounding | None = None
    seconds: float | None = None


def examine(run: Callable[[list[Any]], Sequence[Any] | None], case: Comparison, tries: int = 1) -> Finding:
    """Try an engine.

    Args:
        run: the engine's callable; may answer None if it does not take the arguments.
        case: what eager did.
        tries: how often it is run; from two on, results must not lie in memory that the next run writes.
    """
    examination = _Examination(case)
    watch = ArgumentWatch(case.pristine, case.mutated, mends=case.alone)
    before: Sequence[Any] = ()
    given: Sequence[Any] = ()
    seconds = 0.0
    for _ in range(tries):
        given = copied(case.pristine, case.mutated)
        case.rewind()
        start = time.perf_counter()
        try:
            found = run(list(given))
        except Declined as declined:
            return Finding(declined=str(declined))
        except (EngineError, torch.OutOfMemoryError) as error:
            return Finding(failed=str(error))
        except Exception as error:  # noqa: BLE001  (eager did it, so the engine is at fault; becomes a Reason)
            return Finding(failed=f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - start
        if found is None:
            return Finding(ran=False)
        wrong = _stray(watch) or examination.wrong(found, given) or _reused(before, found, given)
        if wrong:
            return Finding(wrong=wrong, found=found)
        before = found
    rounding = examination.rounding(before, given) if case.measures else None
    return Finding(found=before, rounding=rounding, seconds=seconds)


def wrong_in(case: Comparison, found: Sequence[Any], given: Sequence[Any]) -> str:
    """In what an answer that was given is wrong; empty if in nothing.

    Args:
        case: what eager did.
        found: the engine's results.
        given: the arguments after its call.
    """
    return _Examination(case).wrong(found, given)


def reused(before: Sequence[Any], found: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether a later answer lies where an earlier one still is, and not in its call's arguments."""
    return bool(_reused(before, found, given))


def _stray(watch: ArgumentWatch) -> str:
    places = watch.written()
    return f"argument {places[0]} was written, which must be left alone" if places else ""


def _reused(before: Sequence[Any], found: Sequence[Any], given: Sequence[Any]) -> str:
    """Whether a second answer lies where the first one still is."""
    arguments = [span(value) for value in given]
    for place, value in enumerate(found):
        mine = span(value)
        if mine is None or mine[0].type != "cpu" or any(overlap(mine, other) for other in arguments):
            continue
        if any(overlap(mine, span(other)) for other in before):
            return f"result {place} lies in memory that the next call writes"
    return ""


class _Examination:
    def __init__(self, case: Comparison) -> None:
        self._case = case
        self._expected = [*case.expected, *(case.kept[place] for place in case.mutated)]
        self._truth: Truth | None = None
        self._why_no_truth = "" if case.precise is not None else "it cannot be run in float64"
        self._again: list[Any] | None = None
        self._exact: list[Any] | None = None

    def wrong(self, found: Sequence[Any], given: Sequence[Any]) -> str:
        """In what an answer is wrong; empty if in nothing."""
        case = self._case
        if len(found) != len(case.expected):
            return f"{len(found)} results, not {len(case.expected)}"
        everything = [*found, *(given[place] for place in case.mutated)]
        of_numbers = []
        for miss in misses(everything, self._expected, case.bounds, case.layouts):
            if not miss.numbers:
                return self._named(miss)
            of_numbers.append(miss)
        shared = alias_miss(found, given, case.expected, case.kept)
        if shared is not None:
            return self._named(shared)
        return next(filter(None, (self._weighed(miss, everything) for miss in of_numbers)), "")

    def rounding(self, found: Sequence[Any], given: Sequence[Any]) -> Rounding | None:
        """How far an answer is from float64's; None if that cannot be had."""
        if self._exact is None and self._case.precise is not None:
            try:
                self._exact = _doubled(self._asked(self._case.precise))
            except Exception as error:  # noqa: BLE001  (an op without a float64 kernel, no memory: it is not measured)
                log.info("no run in float64: %s: %s", type(error).__name__, error)
        if self._exact is None:
            return None
        everything = [*found, *(given[place] for place in self._case.mutated)]
        measured = [
            Rounding(share=gap_of(mine, exact, mine.dtype).share, eager=gap_of(eager, exact, mine.dtype).share)
            for mine, eager, exact in zip(everything, self._expected, self._exact, strict=True)
            if isinstance(mine, torch.Tensor) and mine.is_floating_point() and mine.numel()
        ]
        return max(measured, key=lambda one: one.share, default=None)

    def _weighed(self, miss: Miss, found: Sequence[Any]) -> str:
        """A difference of numbers in words; empty if it is one of rounding, or eager differs from itself as well."""
        if self._undetermined(miss.place):
            log.info("%s is not compared: eager's own answers differ", self._named(miss))
            return ""
        truth = self._truth or self._sought()
        if truth is None:
            return f"{self._named(miss)} ({self._why_no_truth})"
        judgement = judge(miss, found, self._expected, truth, self._case.bounds)
        return "" if judgement.right else f"{self._named(miss)}; {judgement.detail or 'float64 cannot tell'}"

    def _named(self, miss: Miss) -> str:
        results = len(self._case.expected)
        if miss.place < results:
            return f"result {miss.place} {miss.detail}"
        return f"argument {self._case.mutated[miss.place - results]}, which is written, {miss.detail}"

    def _undetermined(self, place: int) -> bool:
        """Whether eager, asked again, gives something else: memory nobody wrote, a sum in an order of its own."""
        if self._again is None:
            self._case.rewind()
            self._again = self._asked(self._case.reference)
        pairs = [self._again[place]], [self._expected[place]]
        return any(True for _ in misses(*pairs, self._case.bounds))

    def _sought(self) -> Truth | None:
        precise = self._case.precise
        if precise is None or self._why_no_truth:
            return None
        try:
            exact = self._exact = self._exact or _doubled(self._asked(precise))
            noisy = getattr(precise, "noisy", None)
            self._truth = Truth(exact=exact, noisy=_doubled(self._asked(noisy)) if noisy is not None else None)
        except Exception as error:  # noqa: BLE001  (an op without a float64 kernel, no memory: said in the Reason)
            text = str(error).strip().splitlines()
            self._why_no_truth = f"no run in float64: {type(error).__name__}: {text[0][:200] if text else ''}"
        return self._truth

    def _asked(self, run: RegionCallable) -> list[Any]:
        """Results and written arguments of a run on arguments of its own."""
        args = copied(self._case.pristine, self._case.mutated)
        results = run(list(args))
        return [*results, *(args[place] for place in self._case.mutated)]


def _doubled(values: Sequence[Any]) -> list[Any]:
    return list(map(_double, values))


def _double(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
        return value
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
