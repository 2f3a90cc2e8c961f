"""An engine's callable that is trusted once its first answers were eager's, and not used once one was not.

The first call for each new input shape runs both: eager on the arguments themselves, and then the engine on a copy of
what it writes. Wrong numbers never leave such a call: it gives the engine's results if they are right and nothing was
written, else eager's. What is compared, and how, is in
:mod:`~djinn_fx.guard.compare`; where only numbers differ, a run in float64 decides
(:mod:`~djinn_fx.guard.judge`).
The very first call tries the engine twice: an engine that hands out memory it writes again shows itself then. So do
the 10th, the 100th and the 1,000th of a shape, and a call whose results are not finite is compared too
(:mod:`~djinn_fx.guard.later`).
"""

from __future__ import annotations

import itertools
import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from djinn_fx.engines.base import Declined, RegionCallable, Runner, as_runner
from djinn_fx.engines.failures import nothing_written, said
from djinn_fx.engines.randomness import Randomness
from djinn_fx.errors import EngineError
from djinn_fx.guard.examine import Comparison, Finding, examine
from djinn_fx.guard.facts import Facts
from djinn_fx.guard.later import Look, ShapeCalls, finite
from djinn_fx.guard.trial import capturing, copied
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.threads import new_lock

log = logging.getLogger("djinn_fx.guard")

#: An engine that may not answer: None then.
Answer = Callable[[list[Any]], Sequence[Any] | None]

#: Calls whose results are not finite that are compared, every one; of further ones fewer and fewer.
EVERY_ODD = 16
#: Comparisons in which an engine did not answer although it said it would; then it is not used any more.
MAX_SILENCES = 3

#: Writes a reproducer: arguments as they were, the engine's results, eager's, what is wrong. None: it could not.
Reproduce = Callable[[Sequence[Any], Sequence[Any], Sequence[Any], str], Path | None]


class GuardedRegion(Runner):
    """See the module's text; made by :func:`djinn_fx.guard.making.guarded`.

    Attributes:
        verdict: None until the engine's first answer was compared; True if it was right, False if it is out of use.
        trusted: the engine's own callable, if no call will ever be compared: callers may go to it directly.
        accepts: as the engine's; what it does not accept goes to ``reference`` here too.
        engine: the engine's name.
        mutated: the arguments that a call writes into.
        compared: how many calls were compared so far: those took eager's time as well.
        compared_s: seconds of the engine alone in the latest of them, where its answer was right.
        rounding: how far the first answer was from float64's, where it was measured.
    """

    partial = True

    def __init__(
        self,
        run: Runner,
        reference: RegionCallable,
        *,
        label: str,
        engine: str,
        facts: Facts,
        checks: bool,
        every: int | None,
        mutated: tuple[int, ...],
        on_quarantine: Callable[[Reason], None],
        reproduce: Reproduce | None,
        high_precision: RegionCallable | None,
        measures: bool = False,
        on_passed: Callable[[], None] | None = None,
        passed: bool = False,
    ) -> None:
        self._passed = on_passed
        self.label, self.engine, self.mutated = label, engine, tuple(mutated)
        self.accepts = run.accepts
        self.verdict: bool | None = True if passed else None
        self._passed_before = passed
        self._measures = measures
        self.compared, self.compared_s = 0, None
        self.trusted = None if checks else run
        self._run, self._reference, self._facts, self._every = run, reference, facts, every
        self._attempt = run.attempt if run.partial else None
        self._told, self._reproduce, self._precise = on_quarantine, reproduce, high_precision
        self._shapes: dict[tuple[Any, ...], ShapeCalls] = {}
        self._look: Look | None = None
        self._sampled = itertools.count(1)
        #: Calls whose results were not finite though the arguments were, and at which of them the next is compared.
        self._odd, self._odd_due = 0, 1
        self._lock = new_lock()
        self._dropped = False
        self._silences = 0

    @property
    def memory_bytes(self) -> int:
        """Bytes of the engine's packed copies now; 0 if it does not say."""
        return self._run.memory_bytes

    def release(self) -> None:
        """As the engine's: let go of packed copies, if it can."""
        self._run.release()

    # Running

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the region: by the engine if it is trusted and takes these arguments, else eagerly. Empties the list."""
        try:
            results = self._served(self._run, args)
        except Declined as declined:
            results = declined.answer
        return self._reference(args) if results is None else results

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        """Run, if the engine serves these arguments as it stands; else None, the arguments as they were.

        On a call that is compared they are eager's unless the engine's were right and nothing was written.

        Raises:
            Declined: as the engine does; on a call that is compared, with eager's answer.
        """
        return self._served(self._attempt or self._run, args)

    def prepare(self, args: Sequence[Any]) -> Callable[[], None] | None:
        """As the engine's: the work after which ``attempt`` serves these arguments; None if there is none to do."""
        return None if self.verdict is False else self._run.prepare(args)

    def _served(self, run: Answer, args: list[Any]) -> Sequence[Any] | None:
        if self.verdict is False or (self.accepts is not None and not self.accepts(args)):
            return None
        if self.trusted is not None:
            return self._plain(run, args)
        signature = self._facts.signature(args)
        shape = self._shapes.get(signature)
        known, due = True, False
        if shape is not None:
            shape.calls += 1
            due = shape.calls >= shape.due
        elif self._passed_before:
            self._settle(signature)
        else:
            known = len(self._shapes) >= self._facts.enough
        if known and not due and (self._every is None or next(self._sampled) % self._every):
            return self._looked_at(run, args, signature)
        return self._checked(run, args, signature, shape if known and due else None, known)

    def _checked(
        self, run: Answer, args: list[Any], signature: tuple[Any, ...], due: ShapeCalls | None, known: bool
    ) -> Sequence[Any] | None:
        """A call that is to be compared: the first of a shape, a later one of it (``due``), or one picked by chance."""
        # One thread compares; others do not wait for it.
        if capturing() or not self._lock.acquire(blocking=False):
            return self._plain(run, args) if known else None
        try:
            return self._compared(run, args, signature, twice=due is not None)
        finally:
            self._lock.release()

    def _looked_at(self, run: Answer, args: list[Any], signature: tuple[Any, ...]) -> Sequence[Any] | None:
        """The engine's results; compared, if they are not finite though the arguments are."""
        kept = None if self.mutated or self._facts.random else list(args)
        results = self._plain(run, args)
        if results is None:
            return None
        if self._look is None:
            self._look = Look(results)
        if not self._look.finds(results):
            return results
        if self._odd + 1 < self._odd_due:
            self._odd += 1
            return results
        shape = self._shapes.get(signature)
        if kept is None:  # what it was called with is gone: the next call is compared
            if shape is not None:
                shape.due = 0
            self._count_odd()
            return results
        given = [value for place, value in enumerate(kept) if place not in self._facts.weights]
        if not finite(given) or capturing() or not self._lock.acquire(blocking=False):
            return results
        try:
            self._count_odd()
            compared = self._compared(run, kept, signature)
        except Declined as declined:  # this time
            compared = declined.answer
        finally:
            self._lock.release()
        return results if compared is None else compared

    def _count_odd(self) -> None:
        """One was compared. Where eager's are not finite either, that may be so in every call: in time less often."""
        self._odd += 1
        self._odd_due = self._odd + 1 if self._odd < EVERY_ODD else 2 * self._odd

    def _plain(self, run: Answer, args: list[Any]) -> Sequence[Any] | None:
        given = len(args)
        try:
            results: Sequence[Any] | None = run(args)
        except Declined:
            raise
        except Exception as error:
            if len(args) != given or not nothing_written(error, self.mutated):
                if isinstance(error, EngineError):
                    self._drop(ReasonKind.FALLBACK, str(error))
                raise  # they are gone, or written, so eager cannot be asked
            # A call that eager refuses too says nothing against the engine: then this raises.
            results = self._reference(args)
            self._drop(ReasonKind.FALLBACK, said(error))
        return results

    # Comparing

    def _compared(
        self, run: Answer, args: list[Any], signature: tuple[Any, ...], twice: bool = False
    ) -> Sequence[Any] | None:
        """The engine's results if they are right, else eager's; None if the engine does not take the arguments.

        Raises:
            Declined: as the engine does, with eager's answer.
        """
        self.compared += 1
        self.compared_s = None
        tried = self._tried(run, args, twice)
        if tried is None:
            return None
        finding, case = tried
        self.compared_s = finding.seconds
        if finding.declined:  # nothing was learned
            raise Declined(finding.declined, answer=case.expected)
        right = self._conclude(finding, case, signature)
        # The engine's own, if they are right and nothing was written: then all its answers are equal bit for bit.
        return finding.found if right and not self.mutated else case.expected

    def _tried(
        self, run: Answer, args: list[Any], twice: bool, beside: RegionCallable | None = None
    ) -> tuple[Finding, Comparison] | None:
        """Run eager and the engine; None if the engine does not take the arguments. They are used up otherwise.

        Args:
            run: the engine.
            args: of the call, or copies.
            twice: whether the engine is run twice.
            beside: eager, where the calls go on meanwhile.
        """
        if self.verdict is False:
            return None
        if run is self._attempt and self._run.prepare(args) is not None:
            return None
        kept = list(args)
        try:
            pristine = copied(kept, self.mutated)
        except torch.OutOfMemoryError as error:
            self._drop(ReasonKind.FALLBACK, f"no memory to compare its first answer: {error}")
            return None
        chance = Randomness(kept) if self._facts.random else None
        reference = beside or self._reference
        expected = reference(args)
        after = chance.now() if chance is not None else []
        if chance is None and as_runner(reference).unsure:
            reference(copied(pristine, self.mutated))
        rewind = chance.rewind if chance is not None else lambda: None
        case = self._case(pristine, kept, expected, rewind, beside is None)
        finding = examine(run, case, tries=2 if twice or self.verdict is None else 1)
        if chance is not None:
            chance.set(after)
        return finding, case

    def _case(
        self,
        pristine: Sequence[Any],
        kept: Sequence[Any],
        expected: Sequence[Any],
        rewind: Callable[[], None] = lambda: None,
        alone: bool = True,
    ) -> Comparison:
        return Comparison(
            pristine=pristine,
            kept=kept,
            expected=expected,
            mutated=self.mutated,
            reference=self._reference,
            precise=self._precise,
            bounds=self._facts.bounds,
            layouts=self._facts.layouts,
            rewind=rewind,
            measures=self._measures and self.rounding is None,
            alone=alone,
        )

    def _conclude(self, finding: Finding, case: Comparison, signature: tuple[Any, ...]) -> bool:
        """Draw the consequences; whether the engine's answer was right."""
        if finding.failed:
            self._drop(ReasonKind.FALLBACK, finding.failed)
        elif finding.wrong:
            self._quarantine(finding, case)
        elif finding.ran:
            self._settle(signature)
            self.rounding = self.rounding or finding.rounding
            if self.verdict is None and self._passed is not None:
                self._passed()
            self.verdict = True
            log.info("region %s: %s answers as eager does", self.label, self.engine)
            return True
        else:
            self._silences += 1
            if self._silences == MAX_SILENCES:
                self._drop(ReasonKind.FALLBACK, "it does not take copies of its arguments, so it cannot be compared")
        return False

    def _settle(self, signature: tuple[Any, ...]) -> None:
        """An answer for this shape was right."""
        shape = self._shapes.get(signature)
        if shape is not None:
            shape.settled()
        elif len(self._shapes) < self._facts.enough:
            self._shapes[signature] = ShapeCalls()

    def _quarantine(self, finding: Finding, case: Comparison) -> None:
        self.verdict = False
        folder = None
        if self._reproduce is not None:
            folder = self._reproduce(case.pristine, finding.found, case.expected, finding.wrong)
        shown = f"; `djinn repro {shlex.quote(str(folder))}` shows it" if folder is not None else ""
        self._drop(
            ReasonKind.QUARANTINED,
            f"not used for this region any more, its answer is not eager's: {finding.wrong}{shown}",
        )

    def _drop(self, kind: ReasonKind, why: str) -> None:
        self.verdict, self.trusted = False, None
        if not self._dropped:
            self._dropped = True
            reason = Reason(kind=kind, detail=f"{self.engine}: {why}", node=self.label)
            log.warning("region %s: %s", self.label, reason.detail)
            self._told(reason)
