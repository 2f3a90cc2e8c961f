"""Answers that are compared beside the calls, where another engine can answer meanwhile.

Comparing takes eager's time and that of two more answers. Before its first answer counts, an engine is tried on copies
of a call's arguments in a thread; of a later call that is to be compared the answer is kept, and eager is asked in a
thread. That thread lets the calls go first, unless they wait for the engine.

Only what is right counts there. A difference may be somebody else's doing, who changed a weight meanwhile: then the
next call is compared by itself, and that decides.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from djinn_fx.engines.base import RegionCallable, as_runner
from djinn_fx.engines.bound.closing import CLOSER
from djinn_fx.guard.examine import reused, wrong_in
from djinn_fx.guard.guarded import Answer, GuardedRegion
from djinn_fx.guard.later import ShapeCalls
from djinn_fx.guard.trial import capturing, copied, same_bits
from djinn_fx.threads import is_awaited, let_others_go_first, new_lock, others_wait, start_thread

#: Who was right in an earlier process answers at once; this call of a shape is compared.
SOON = 2
#: A later comparison takes one part of a processor's time in so many and one.
REST = 3.0
#: Seconds of its pauses: shorter ones are added up.
_SHORTEST_S, _LONGEST_S = 0.002, 0.1
#: Multiplications of a product that is done so many rows at a time.
_LONG_PRODUCT, _ROWS = 1 << 28, 8

log = logging.getLogger("djinn_fx.guard")

#: Held from a call to the end of its comparison. A comparison holds all that the call was given and gave: one at a time
#: does, whatever it is of.
_COMPARING = new_lock()


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A call's values, copied but for the weights, and the mode that it was made in."""

    values: Sequence[Any]
    inference: bool

    @staticmethod
    def of(values: Sequence[Any], weights: frozenset[int]) -> _Call:
        own = [i for i, one in enumerate(values) if isinstance(one, torch.Tensor) and i not in weights]
        # A parameter that an op is using in a thread cannot be swapped by the user: other tensors over its memory can.
        lent = [one.detach() if i in weights else one for i, one in enumerate(values)]
        return _Call(values=copied(lent, own), inference=torch.is_inference_mode_enabled())

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        with torch.inference_mode(self.inference), torch.no_grad():
            yield


class _WithPauses(TorchDispatchMode):
    """Torch's ops in this thread, with a pause after each that is :data:`REST` times as long as it took of a processor.

    However low its priority is, a thread that keeps a core busy makes the system leave both threads of a call on the
    other one (docs/decisions/0042). Where engines wait to be opened it is over sooner without pauses. Products that
    take as long as a small model's call are done some rows at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owed_s = 0.0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten.mm.default and args[0].shape[0] * args[1].numel() > _LONG_PRODUCT:
            return torch.cat([self._one(op, (rows, args[1]), {}) for rows in args[0].split(_ROWS)])
        return self._one(op, args, kwargs or {})

    def _one(self, op: Any, args: Any, kwargs: Any) -> Any:
        start = time.thread_time()
        results = op(*args, **kwargs)
        self._owed_s += REST * (time.thread_time() - start)
        if self._owed_s > _SHORTEST_S:
            if not others_wait():
                time.sleep(min(self._owed_s, _LONGEST_S))
            self._owed_s = 0.0
        return results


class RehearsedRegion(GuardedRegion):
    """See the module's text. What draws random numbers is compared in the call: they are everybody's."""

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self._rehearsed: set[tuple[Any, ...]] = set()
        self._beside = not self._facts.random
        #: A shape and results that are in use, until the next call shows that it does not write where they are.
        self._last: tuple[ShapeCalls, Sequence[Any]] | None = None

    # Before the first answer

    def rehearsal(self, args: Sequence[Any]) -> Callable[[], None] | None:
        """See the base class. Handed out once for each signature."""
        if not self._beside or self.trusted is not None or self.verdict is False or self._passed_before or capturing():
            return None
        if self.verdict and not self._facts.sets:
            # Further sizes. Until each was rehearsed own ops would answer, for a hundred steps of a decoder;
            # comparing them in the call, which own ops answer anyway, takes the engine's time once more.
            return None
        if self.accepts is not None and not self.accepts(args):
            return None
        signature = self._facts.signature(args)
        if signature in self._rehearsed or signature in self._shapes or len(self._shapes) >= self._facts.enough:
            return None
        self._rehearsed.add(signature)
        return functools.partial(self._rehearse, _Call.of(args, self._facts.weights), signature)

    def _rehearse(self, call: _Call, signature: tuple[Any, ...]) -> None:
        run, reference = self._attempt or self._run, as_runner(self._reference).direct
        with call.mode():
            try:
                # Threads that a library starts for its first answer must not have a lower priority.
                if run(copied(call.values, self.mutated)) is None:
                    return
            except Exception as error:
                log.debug("%s: %s: a rehearsal failed", self.label, self.engine, exc_info=error)
                return
        # Torch's threads that work for this one have its priority of a moment ago. A new one has others.
        work = functools.partial(self._try_on, call, signature, run, reference)
        thread = start_thread(work, f"djinn tries {self.engine}", awaited=is_awaited())
        if thread is not None:
            thread.join()

    def _try_on(self, call: _Call, signature: tuple[Any, ...], run: Answer, reference: RegionCallable) -> None:
        let_others_go_first()
        if not self._lock.acquire(blocking=False):
            return
        try:
            with call.mode():
                tried = self._tried(run, list(call.values), False, reference)
        finally:
            self._lock.release()
        if tried is not None and tried[0].ran and not (tried[0].declined or tried[0].failed or tried[0].wrong):
            self._conclude(*tried, signature)

    # Later

    def _settle(self, signature: tuple[Any, ...]) -> None:
        new = signature not in self._shapes
        super()._settle(signature)
        if new and self._passed_before and self._beside and signature in self._shapes:
            self._shapes[signature].due = SOON

    def _checked(
        self, run: Any, args: list[Any], signature: tuple[Any, ...], due: ShapeCalls | None, known: bool
    ) -> Sequence[Any] | None:
        if due is None or not due.due or not self._beside or capturing():
            return super()._checked(run, args, signature, due, known)
        if not _COMPARING.acquire(blocking=False):
            return self._plain(run, args)  # a later call of this shape is compared
        started = False
        try:
            before, kept = _Call.of(args, self._facts.weights), list(args)
            results = self._plain(run, args)
            if results is None:
                return None
            due.settled()
            self._last = due, results
            after = _Call.of([*kept, *results], self._facts.weights).values
            work = functools.partial(self._compare_later, before, after[: len(kept)], after[len(kept) :], due)
            started = start_thread(work, f"djinn compares {self.engine}", beside=True) is not None
            return results
        finally:
            if not started:
                _COMPARING.release()

    def _compare_later(self, *given: Any) -> None:
        try:
            self._compare(*given)
        finally:
            _COMPARING.release()
        CLOSER.freed()  # what comparing took goes back to the system

    def _compare(self, call: _Call, given: Sequence[Any], found: Sequence[Any], shape: ShapeCalls) -> None:
        let_others_go_first()
        with call.mode(), _WithPauses():
            try:
                kept = copied(call.values, self.mutated)
                expected = as_runner(self._reference).direct(list(kept))
                wrong = self._stray(call.values, given)
                wrong = wrong or wrong_in(self._case(call.values, kept, expected, alone=False), found, given)
            except Exception as error:  # noqa: BLE001  (a call that is compared will tell, and give the Reason)
                wrong = f"{type(error).__name__}: {error}"
        if wrong:
            log.debug("%s: %s: the next call is compared by itself: %s", self.label, self.engine, wrong)
            shape.due = 0

    def _stray(self, before: Sequence[Any], after: Sequence[Any]) -> str:
        """Whether an argument was written that must be left alone."""
        free = {*self.mutated, *self._facts.weights}
        pairs = ((i, pair) for i, pair in enumerate(zip(before, after, strict=True)) if i not in free)
        for place, (old, new) in pairs:
            if isinstance(old, torch.Tensor) and not same_bits(old, new):
                return f"argument {place} was written"
        return ""

    def _plain(self, run: Any, args: list[Any]) -> Sequence[Any] | None:
        last = self._last
        if last is None:
            return super()._plain(run, args)
        given = list(args)
        results = super()._plain(run, args)
        if results is not None:
            self._last = None
            shape, before = last
            if reused(before, results, given):
                shape.due = 0
        return results
