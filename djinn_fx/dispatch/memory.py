"""Artefacts loaded in this process, and one lock a key so that threads build it once."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass

from djinn_fx.engines.base import LIVE_BYTES, Artefact, Engine, RegionCallable
from djinn_fx.engines.keys import Guards
from djinn_fx.threads import new_lock, new_rlock


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An artefact that is ready to run.

    Attributes:
        key: of its entry on disk; empty if there is none.
        run: the callable.
        guards: for which sizes it is valid.
        engine: name of the engine that made it.
        live_bytes: that a call takes beside its arguments, at the sizes it was built for; None: not known.
    """

    key: str
    run: RegionCallable
    guards: Guards
    engine: str
    live_bytes: int | None = None


class Memory:
    """Artefacts loaded in this process, by key. Regions of any graph share them."""

    def __init__(self) -> None:
        self._loaded: dict[str, list[Loaded]] = {}
        self._lock = new_lock()

    def variants(self, key: str) -> tuple[Loaded, ...]:
        """What is loaded for a key, each valid for other sizes."""
        with self._lock:
            return tuple(self._loaded.get(key, ()))

    def exactly(self, key: str) -> Loaded | None:
        """The artefact whose entry has this key, if it is loaded under it."""
        return next((one for one in self.variants(key) if one.key == key), None)

    def add(self, key: str, loaded: Loaded) -> None:
        """Keep one more."""
        with self._lock:
            self._loaded.setdefault(key, []).append(loaded)

    def forget(self, key: str) -> None:
        """Forget what is loaded for a key."""
        with self._lock:
            self._loaded.pop(key, None)

    def clear(self) -> None:
        """Forget all; callables in use stay alive with their graphs."""
        with self._lock:
            self._loaded.clear()


MEMORY = Memory()


def load_entry(engine: Engine, artefact: Artefact, key: str, *, known_as: str = "") -> Loaded:
    """Make a stored artefact callable, and remember it in this process.

    Args:
        engine: that made it.
        artefact: its header, with the size facts it relies on, and its payload.
        key: of its entry.
        known_as: the region's key, if it is another one of an artefact for other sizes.

    Raises:
        EngineError: it does not fit this engine or machine.
    """
    guards = Guards(expression=artefact.header.get("guards"))
    live = artefact.header.get(LIVE_BYTES)
    loaded = Loaded(key=key, run=engine.load(artefact), guards=guards, engine=engine.name, live_bytes=live)
    MEMORY.add(known_as or key, loaded)
    return loaded


class KeyLocks:
    """One lock a key: two threads that want one artefact build it once (the store's lock does so for processes)."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, threading.RLock] = weakref.WeakValueDictionary()
        self._lock = new_lock()

    def of(self, key: str) -> threading.RLock:
        """The lock of a key; it lives as long as somebody holds it or waits for it."""
        with self._lock:
            return self._locks.setdefault(key, new_rlock())


BUILDING = KeyLocks()
