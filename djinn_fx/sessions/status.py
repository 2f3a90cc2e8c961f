"""What pools and sessions are like now, for who asks in this process and, by a small file, in another.

The file is for this user alone, in the cache folder. A thread of its own writes it every two seconds while something
changes; it goes with the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from djinn_fx.errors import StoreError
from djinn_fx.files.private import default_cache_dir, own_folder
from djinn_fx.reasons import Reason
from djinn_fx.sessions.manager import SessionManager
from djinn_fx.sessions.policy.state import Tier
from djinn_fx.threads import ENDING, at_end, start_thread

log = logging.getLogger("djinn_fx.sessions")

EVERY_S = 2.0
#: A status file of anybody's is no larger, and there are no more of them.
MAX_BYTES, MAX_FILES = 8 << 20, 256
_REASONS, _SESSIONS = 50, 1000


@dataclass(frozen=True)
class PoolStatus:
    """One pool.

    Attributes:
        tier: ``device``, ``host`` or ``disk``.
        nbytes, free: of it.
    """

    tier: str
    nbytes: int
    free: int


@dataclass(frozen=True)
class SessionStatus:
    """One session; bytes are its own, those of a shared prefix apart.

    Attributes:
        id, tenant, phase, tool, priority: as said.
        tokens: of its context; ``cached`` of them are in pages.
        device, host, disk: bytes there.
        turns: done.
        since_s: how long its phase has lasted.
        estimate_s: how long its wait would be, as was said; None if nothing was.
    """

    id: str
    tenant: str
    phase: str
    tool: str
    priority: int
    tokens: int
    cached: int
    device: int
    host: int
    disk: int
    turns: int
    since_s: float
    estimate_s: float | None


@dataclass(frozen=True)
class SessionsStatus:
    """The sessions of one model.

    Attributes:
        model: its class.
        policy: who decides.
        page_bytes: of a page.
        pools: from the device down.
        sessions: the last 1,000 that were opened.
        alive: how many there are.
        steps: made so far.
        counts: pages that left, returned, were damaged and so on.
        shared_tokens: that sessions found computed already.
        recomputed_tokens: that were cached once and had to be computed again.
        reasons: why pages left and returned, the last ones.
    """

    model: str
    policy: str
    page_bytes: int
    pools: tuple[PoolStatus, ...]
    sessions: tuple[SessionStatus, ...]
    alive: int
    steps: int
    counts: dict[str, int]
    shared_tokens: int
    recomputed_tokens: int
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON object."""
        return asdict(self) | {"reasons": [reason.to_json() for reason in self.reasons]}


def status_of(manager: SessionManager) -> SessionsStatus:
    """The sessions of one model now."""
    with manager.lock:
        store, now = manager.store, manager.clock()
        pools = [
            PoolStatus(tier.name.lower(), pool.pages * pool.page_bytes, pool.free * pool.page_bytes)
            for tier, pool in ((Tier.DEVICE, store.device), (Tier.HOST, store.host), (Tier.DISK, store.disk))
            if pool is not None
        ]
        sessions = [
            SessionStatus(
                id=one.key,
                tenant=one.context.tenant,
                phase=one.context.phase.value,
                tool=one.context.tool,
                priority=one.context.priority,
                tokens=len(one.tokens),
                cached=one.holding.cached,
                device=one.context.device_bytes,
                host=one.context.host_bytes,
                disk=one.context.disk_bytes,
                turns=one.context.turns,
                since_s=now - one.context.since,
                estimate_s=one.context.estimate_s,
            )
            for one in list(manager.conversations.values())[-_SESSIONS:]
        ]
        return SessionsStatus(
            model=type(manager.model.module).__name__,
            policy=manager.policy.name,
            page_bytes=store.device.page_bytes,
            pools=tuple(pools),
            sessions=tuple(sessions),
            alive=len(manager.conversations),
            steps=manager.made,
            counts=asdict(store.counts),
            shared_tokens=manager.provision.shared_tokens,
            recomputed_tokens=manager.residency.recomputed_tokens,
            reasons=tuple(manager.reasons()[-_REASONS:]),
        )


# -- for other processes ---------------------------------------------------------------------------------------------


def status_folder() -> Path:
    """Where processes tell of their sessions."""
    return default_cache_dir() / "sessions"


class Teller:
    """Writes the status of some managers to a file while they are open.

    Args:
        managers: gives those that are open.
    """

    def __init__(self, managers: Any) -> None:
        self._managers = managers
        self._running = False
        self._path: Path | None = None

    def start(self) -> None:
        """Begin, unless it has begun."""
        if not self._running:
            self._running = True
            at_end(self._remove)
            if start_thread(self._serve, "djinn tells of sessions") is None:
                self._running = False

    def _serve(self) -> None:
        last: Any = None
        try:
            while open_now := self._managers():
                told = [status_of(manager).to_json() for manager in open_now]
                pairs = zip(open_now, told, strict=True)
                changed = [(id(manager), one["steps"], one["counts"], one["alive"]) for manager, one in pairs]
                if changed != last:
                    self._write({"pid": os.getpid(), "at": time.time(), "models": told})
                    last = changed
                if ENDING.wait(EVERY_S):
                    break
        except (OSError, StoreError) as error:
            log.warning("djinn sessions will not show this process: %s", error)
        finally:
            self._running = False
            self._remove()

    def _write(self, told: dict[str, Any]) -> None:
        folder = status_folder()
        own_folder(folder)
        self._path = folder / f"status-{os.getpid()}.json"
        draft = self._path.with_suffix(".draft")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="utf-8") as stream:
            json.dump(told, stream)
        os.replace(draft, self._path)

    def _remove(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
