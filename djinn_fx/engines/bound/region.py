"""A region with its weights bound into a runtime's session, where they are constants: packed once, read fast.

One artefact serves many layers, so a region has a session for each set of weights that it is called with. Before a
session answers, :mod:`djinn_fx.engines.bound.watch` says whether its copies still are the weights. If they are not, a
new one is opened; the time is spent by whoever runs the work that :meth:`BoundRegion.prepare` hands out. Weights that
change again and again are not worth a copy: the region then reads them on every call, for good.

A session is dropped when some weight of it has no other holder left, for then no call can ask for it again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from djinn_fx.engines.base import Declined, Runner
from djinn_fx.engines.bound import filed
from djinn_fx.engines.bound.closing import CLOSER
from djinn_fx.engines.bound.feeding import Feeder
from djinn_fx.engines.bound.holders import SWEEPERS
from djinn_fx.engines.bound.signature import Signature
from djinn_fx.engines.bound.watch import Watch, addresses, picker
from djinn_fx.engines.failures import unforeseen, versions
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind

log = logging.getLogger("djinn_fx.engines")

#: This many sessions opened anew because weights had changed, ...
MAX_REBINDS = 3
#: ... within this many calls, and the region reads its weights on every call.
REBIND_WINDOW = 100
#: More sets of weights than this at a time, and the region reads them on every call.
MAX_SETS = 256
#: How often opening a session is begun again because the weights changed meanwhile.
_TRIES = 3
#: So many calls after a session was opened, pages of its weights that lie in a file are given back.
_QUIET_CALLS = 20


class Session(Protocol):
    """A model opened by a runtime. May be called from several threads at once."""

    @property
    def memory_bytes(self) -> int:
        """Of the copies it keeps of weights."""
        ...

    def run(self, args: list[Any]) -> list[Any]:
        """The region's results; writes what the region writes. Leaves the list as it is.

        Raises:
            EngineError: the runtime failed; nothing was written.
            Declined: it would compute something else than torch for these values; nothing was written.
        """
        ...


#: Opens a session in which these weights, by their places, are constants. Raises EngineError.
Opener = Callable[[dict[int, torch.Tensor]], Session]


@dataclass(frozen=True)
class _Bound:
    session: Session
    watch: Watch | None
    threads: int
    #: Which tensor objects it was opened for, by identity. They may be gone.
    objects: tuple[int, ...] = ()


class _Forks:
    """Counts the forks between this process and the one that imported the module."""

    count = 0
    #: Sessions of a parent process. Their threads are not in this one, and closing them would wait for these threads.
    abandoned: list[object] = []  # noqa: RUF012  (one for the process)

    @classmethod
    def happened(cls) -> None:
        cls.count += 1


os.register_at_fork(after_in_child=_Forks.happened)


def forks() -> int:
    """How many forks lie between this process and the one that first imported this module."""
    return _Forks.count


class BoundRegion(Runner):
    """See the module's text.

    Args:
        engine: its name.
        label: of the region.
        signature: of the model.
        weights: places of arguments that are weights, among those the model is fed.
        opener: opens a session.
        mode: ``"auto"``, ``"constant"`` or ``"input"``, as the setting ``weights``.
        shares_copies: see :class:`Runner`.
        filed: folder for the file in which the weights themselves are to lie (``filed.py``); None: they stay in memory.

    Attributes:
        engine: the engine's name.
        mutated: places of arguments that a run writes into.
        reason: why the region reads its weights on every call, once it does so because they change too often.
    """

    partial = True

    def __init__(
        self,
        *,
        engine: str,
        label: str,
        signature: Signature,
        weights: Sequence[int],
        opener: Opener,
        mode: str = "auto",
        shares_copies: bool = True,
        filed: Path | None = None,
    ) -> None:
        self.engine, self.label, self.mode, self.shares_copies = engine, label, mode, shares_copies
        self._filed = filed
        self.mutated = tuple(sorted({place for place, _ in signature.mutated}))
        self.reason: Reason | None = None
        fed = {one.place for one in signature.fed}
        self._places = tuple(place for place in weights if place in fed and place not in self.mutated)
        self._pick = picker(self._places)
        self._opener = opener
        self._all = Feeder(signature.fed)
        self._others = Feeder([one for one in signature.fed if one.place not in self._places])
        self._reading = mode == "input" or not self._places
        self._begin()
        SWEEPERS.add(self)

    def _begin(self) -> None:
        self._forks = forks()
        self._lock = threading.Lock()
        self._sets: dict[tuple[int, ...], _Bound] = {}
        self._reader: _Bound | None = None
        self._calls, self._pages_go_at = 0, -1
        self._rebinds: deque[int] = deque(maxlen=MAX_REBINDS)
        #: ``objects`` of the latest sets that were dropped.
        self._dropped: deque[tuple[int, ...]] = deque(maxlen=8)

    # Calling

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        """Run, if a session is open for exactly these weights and takes these arguments; empties the list.

        Otherwise None, with the arguments untouched.

        Raises:
            EngineError: the runtime failed. Nothing was written, and the list is as it was.
            HalfWrittenError: it failed while it wrote. The list is as it was.
            Declined: these values are not for it. Nothing was written.
        """
        self._calls += 1
        if self._calls == self._pages_go_at:
            CLOSER.let_go()
        before = versions(args, self.mutated)
        try:
            bound = self._ready(args)
            if bound is None:
                return None
            results = bound.session.run(args)
        except (EngineError, Declined):
            raise
        except Exception as error:
            what = f"{self.engine}: {self.label}"
            raise unforeseen(error, what, before, versions(args, self.mutated)) from error
        args.clear()
        return results

    def prepare(self, args: Sequence[Any]) -> Callable[[], None] | None:
        """The work after which :meth:`attempt` would serve these arguments; None if it would now.

        The work may be done in any thread. It raises EngineError where the engine cannot serve them. It holds the
        weights among the arguments, not the others.
        """
        if self._ready(args) is not None:
            return None
        refusal = self._all.refusal(args)
        if refusal is not None:
            return lambda: self._fail(refusal)
        weights = list(self._pick(args)) if self._places else []
        return lambda: self._open(weights)

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run, opening a session first if one must be. Empties the list.

        Raises:
            EngineError: the engine cannot. Nothing was written, and the list is as it was.
            Declined: these values are not for it. Likewise.
        """
        for _ in range(_TRIES):
            results = self.attempt(args)
            if results is not None:
                return results
            work = self.prepare(args)
            if work is not None:
                work()
        # Weights that change while a session is being opened for them.
        self._read_from_now_on("its weights change while they are being packed")
        work = self.prepare(args)
        if work is not None:
            work()
        results = self.attempt(args)
        return results if results is not None else self._fail("a session that was just opened does not serve the call")

    @property
    def memory_bytes(self) -> int:
        """Bytes of the copies of weights that open sessions keep, as each session counts them."""
        sessions = [bound.session for bound in list(self._sets.values())]
        return sum(session.memory_bytes for session in sessions)

    @property
    def sets(self) -> int:
        """How many sets of weights are bound."""
        return len(self._sets)

    def _fail(self, why: str) -> Any:
        raise EngineError(f"{self.engine}: {self.label}: {why}")

    # Which session

    def _ready(self, args: Sequence[Any]) -> _Bound | None:
        if self._forks != forks():
            self._after_fork()
        if self._reading:
            bound = self._reader
            serves = bound is not None and self._all.takes(args)
        else:
            weights = self._pick(args)
            bound = self._sets.get(addresses(weights))
            serves = bound is not None and bound.watch is not None and bound.watch.unchanged(weights)
            serves = serves and self._others.takes(args)
        return bound if serves and bound is not None and bound.threads == torch.get_num_threads() else None

    def _after_fork(self) -> None:
        """In a child process: its parent's sessions have no threads here."""
        _Forks.abandoned.append((self._sets, self._reader))
        self._begin()

    # Opening

    def _open(self, weights: Sequence[torch.Tensor]) -> None:
        """Open a session for these weights, unless somebody has meanwhile."""
        CLOSER.start()
        if self._reading:
            with self._lock:
                if self._reader is None or self._reader.threads != torch.get_num_threads():
                    self._reader = _Bound(self._opener({}), None, torch.get_num_threads())
            return
        with self._lock:
            key = addresses(weights)
            old = self._sets.get(key)
            stale = old is not None and old.watch is not None and not old.watch.holds(weights)
            if old is not None and not stale and old.threads == torch.get_num_threads():
                return
            replaced = self._have_other_memory(weights)
            if stale:
                old = None
                CLOSER.let_go(self._sets.pop(key, None))
            if stale or replaced:
                self._rebinds.append(self._calls)
            often = len(self._rebinds) == MAX_REBINDS and self._calls - self._rebinds[0] < REBIND_WINDOW
            if self.mode == "auto" and (often or len(self._sets) >= MAX_SETS):
                self._read_from_now_on(
                    f"its weights changed {MAX_REBINDS} times within {REBIND_WINDOW} calls"
                    if often
                    else f"it is called with more than {MAX_SETS} sets of weights"
                )
            else:
                bound = self._bind(weights)
                if bound is not None and bound.watch is not None:
                    self._sets[bound.watch.addresses] = bound
                    CLOSER.let_go()  # what opening it took goes back to the system
                    return
        self._open(weights)

    def _have_other_memory(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether some of these tensor objects were bound with memory that nobody else holds any more."""
        self.sweep()
        now = list(map(id, weights))
        found = any(one == other for objects in self._dropped for one, other in zip(objects, now, strict=True))
        self._dropped.clear()
        return found

    def _bind(self, weights: Sequence[torch.Tensor]) -> _Bound | None:
        """A session with these weights; None if they are to be read, since they may change without a trace."""
        threads = torch.get_num_threads()
        self._file(weights)
        for _ in range(_TRIES):
            watch = Watch(weights, insist=self.mode == "constant")
            if watch.untraceable is not None and self.mode != "constant":
                self._read_from_now_on(watch.untraceable)
                return None
            session = self._opener(dict(zip(self._places, watch.kept, strict=True)))
            if watch.holds(weights):
                timed = _Timed(session, watch) if watch.rotates else session
                return _Bound(timed, watch, threads, tuple(map(id, weights)))
        return self._fail("its weights change while they are being packed")  # type: ignore[no-any-return]

    def _file(self, weights: Sequence[torch.Tensor]) -> None:
        """Have the weights lie in a file, before they are watched, if they are to."""
        why = filed.move(weights, self._filed) if self._filed is not None else None
        if why is not None:
            detail = f"{self.engine} has the weights in memory beside its copy (keep_weights: packed): {why}"
            self.reason = Reason(kind=ReasonKind.FALLBACK, detail=detail, node=self.label)
            log.warning("%s", self.reason)
        elif self._filed is not None:
            self._pages_go_at = self._calls + _QUIET_CALLS

    def _read_from_now_on(self, why: str) -> None:
        detail = f"{self.engine} reads the weights on every call instead of packing them: {why}"
        self.reason = Reason(kind=ReasonKind.FALLBACK, detail=detail, node=self.label)
        log.info("%s", self.reason)
        self._reading = True
        self._let_go()

    # Dropping

    def release(self) -> None:
        """Let go of all sessions and their copies. A call that needs one opens it anew. Waits for nobody."""
        self._let_go()
        reader, self._reader = self._reader, None
        CLOSER.let_go(reader)

    def _let_go(self) -> None:
        sets, self._sets = self._sets, {}
        CLOSER.let_go(*sets.values())

    def sweep(self) -> int:
        """Drop the sessions whose weights nobody else holds. Takes no lock: may interrupt any line of this class.

        Returns:
            How many were dropped.
        """
        if self._forks != forks():
            return 0
        dead = [(key, one) for key, one in list(self._sets.items()) if one.watch is not None and one.watch.orphaned]
        for key, one in dead:
            self._sets.pop(key, None)
            self._dropped.append(one.objects)
            CLOSER.let_go(one)
        return len(dead)


class _Timed:
    """A session whose watch is told what calls take: it may use a share of that.

    Args:
        session: answers.
        watch: of its weights.
    """

    def __init__(self, session: Session, watch: Watch) -> None:
        self._session, self._watch = session, watch

    @property
    def memory_bytes(self) -> int:
        """The session's."""
        return self._session.memory_bytes

    def run(self, args: list[Any]) -> list[Any]:
        """The session's results."""
        begun = time.perf_counter()
        results = self._session.run(args)
        self._watch.spent(time.perf_counter() - begun)
        return results
