"""Which regions an engine is not used for any more, because an answer of it was wrong: in this process and on disk."""

from __future__ import annotations

import logging

from djinn_fx.engines.keys import EngineKey
from djinn_fx.reasons import Reason
from djinn_fx.store import files
from djinn_fx.store.store import MAX_NEGATIVE_S, Store
from djinn_fx.threads import new_lock

log = logging.getLogger("djinn_fx.guard")

#: As many artefacts of one region are looked for; no more are ever kept (``tier.MAX_VARIANTS``).
_VARIANTS = 16


class Quarantine:
    """Keys of artefacts that gave a wrong answer. A key holds the engine's versions, so a new version starts afresh."""

    def __init__(self) -> None:
        self._known: dict[str, Reason] = {}
        self._lock = new_lock()

    def put(self, key: EngineKey, reason: Reason, store: Store | None) -> None:
        """Take an engine out of use for a region, for good here and for 30 days on disk; its artefacts are deleted.

        Args:
            key: of the region for that engine.
            reason: kind ``QUARANTINED``.
            store: the disk cache, or None.
        """
        with self._lock:
            self._known[key.digest] = reason
        if store is None:
            return
        for number in range(_VARIANTS):
            try:
                files.remove(store.entry_path(key.variant(number).digest))
            except OSError as error:  # the negative entry is asked first
                log.warning("a wrong artefact could not be deleted: %s", error)
                break
        store.put_negative(key.digest, reason, MAX_NEGATIVE_S)

    def get(self, key: EngineKey, store: Store | None) -> Reason | None:
        """Why the engine is out of use for the region; None if it is not. To be asked before an artefact is used."""
        with self._lock:
            known = self._known.get(key.digest)
        if known is not None or store is None:
            return known
        return store.get_negative(key.digest)

    def clear(self) -> None:
        """Forget what was noted in this process."""
        with self._lock:
            self._known.clear()


QUARANTINE = Quarantine()
