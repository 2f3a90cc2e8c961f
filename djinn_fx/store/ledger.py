"""What the store keeps count of and what it tells: counters, reasons, one warning per cause of trouble."""

from __future__ import annotations

import errno
import logging
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from djinn_fx.errors import StoreError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.threads import new_lock

logger = logging.getLogger("djinn_fx.store")


@dataclass(frozen=True)
class StoreCounters:
    """What happened in this process since the store was opened.

    A damaged entry counts as ``corrupt`` and as a miss, one that somebody else signed as ``foreign`` and as a miss.
    ``negative`` counts negative entries that answered.
    """

    hits: int = 0
    misses: int = 0
    corrupt: int = 0
    evicted: int = 0
    write_failures: int = 0
    negative: int = 0
    foreign: int = 0


#: By cache directory: keys for which somebody else wrote something, and how that showed. A process opens a directory
#: many times and is warned of it once.
_FOREIGN: dict[str, dict[str, str]] = {}
_MUTEX = new_lock()


def told_of_caches() -> tuple[str, ...]:
    """What this process does not use of the cache directories it looked into, in words."""
    with _MUTEX:
        found = {root: dict(known) for root, known in _FOREIGN.items()}
    return tuple(
        f"{len(known)} {'entry' if len(known) == 1 else 'entries'} in {root} not used: {next(iter(known.values()))}"
        for root, known in found.items()
    )


class Ledger:
    """Counters and reasons of one store; threads may share it."""

    def __init__(self, root: Path) -> None:
        self.counters = StoreCounters()
        self.reasons: deque[Reason] = deque(maxlen=256)
        self._root = root
        self._mutex = new_lock()
        self._warned: set[str] = set()

    @property
    def troubled(self) -> bool:
        """Whether anything was unusable so far."""
        return bool(self._warned)

    def count(self, name: str) -> None:
        """Add one to a counter."""
        with self._mutex:
            self.counters = replace(self.counters, **{name: getattr(self.counters, name) + 1})

    def tell(self, level: int, kind: ReasonKind, detail: str, node: str | None = None) -> None:
        """Keep a reason and log it."""
        self.reasons.append(Reason(kind=kind, detail=detail, node=node))
        logger.log(level, "%s", detail)

    def unusable(self, action: str, error: OSError | StoreError) -> None:
        """Warn about a cause the first time it is met: a full disk would else be logged for every region."""
        number = error.errno if isinstance(error, OSError) else None
        cause = errno.errorcode.get(number, str(number)) if number is not None else str(error)
        with self._mutex:
            if cause in self._warned:
                return
            self._warned.add(cause)
        detail = f"cannot {action} the cache directory {self._root}: {error}; compiling goes on without it"
        self.tell(logging.WARNING, ReasonKind.CACHE_UNUSABLE, detail)

    def foreign(self, name: str, problem: str, node: str) -> None:
        """Something that this user did not write: each is a reason, and the folder one warning."""
        self.count("foreign")
        with _MUTEX:
            known = _FOREIGN.setdefault(str(self._root), {})
            first = not known
            known[node] = problem
        detail = (
            f"{name} in the cache directory {self._root} is not used: {problem}. `djinn cache import` takes in what "
            "you trust"
        )
        self.tell(logging.WARNING if first else logging.INFO, ReasonKind.CACHE_MISS, detail, node)
