"""How long regions took here, and what that taught the cost model: entries of the store without a payload.

Like a trial's outcome (``decisions.py``) they are hints: one that is gone or damaged costs an estimate, nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from djinn_fx.costmodels.learning import Learned
from djinn_fx.costmodels.measured import Timing
from djinn_fx.engines.here import here
from djinn_fx.engines.keys import digest_of
from djinn_fx.engines.registry import engine
from djinn_fx.settings.table import Settings
from djinn_fx.store.store import Store
from djinn_fx.threads import new_lock
from djinn_fx.units import now_text

log = logging.getLogger("djinn_fx.compiling.region_times")

#: Raised when what an entry holds changes its meaning.
TIMES_SCHEMA = 1


class RegionTimes:
    """Measured times by structural hash and engine. A ``costmodels.measured.KnownTimes``.

    The structural hash holds every size, so a time is of exactly this work. Regions with sizes that only a call tells
    have none: one time would stand for all.

    Args:
        store: the disk cache; None: nothing is kept.
        settings: in force; they change what an engine makes of a region.
    """

    def __init__(self, store: Store | None, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._fingerprints: dict[str, str] = {}

    def time(self, structural_hash: str, engine: str) -> Timing | None:
        """See ``KnownTimes``."""
        entry = self._store.get(_time_key(structural_hash)) if self._store is not None else None
        rows = entry.header.get("engines") if entry is not None else None
        row = rows.get(engine) if isinstance(rows, Mapping) else None
        # Versions are looked up only where there is something to compare: that imports the engine's library.
        if not isinstance(row, Mapping) or row.get("made_by") != self._made_by(engine):
            return None
        try:
            found = Timing(
                **{name: float(row[name]) for name in ("time_s", "low_s", "high_s")},
                calls=int(row["calls"]),
                made=str(row["made"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            log.warning("the time of a region is ignored: %r", error)
            return None
        return found if 0 < found.time_s < math.inf else None

    def note(self, structural_hash: str, engine: str, label: str, seconds: Sequence[float]) -> None:
        """Keep what calls took, in the place of what was known about the engine."""
        if self._store is None or not structural_hash:
            return
        now = now_text()
        key = _time_key(structural_hash)
        entry = self._store.get(key)
        known = entry.header.get("engines") if entry is not None else None
        rows = dict(known) if isinstance(known, Mapping) else {}
        rows[engine] = {**asdict(Timing.of(seconds, now)), "made_by": self._made_by(engine)}
        header = {"schema": TIMES_SCHEMA, "what": "times", "label": label, "created": now, "engines": rows}
        self._store.put(key, header, b"")

    def _made_by(self, name: str) -> str:
        """What an engine's code depends on besides the region."""
        if name not in self._fingerprints:
            fields = {"engine": dict(engine(name, self._settings).fingerprint()), "weights": self._settings.weights}
            self._fingerprints[name] = digest_of(fields)
        return self._fingerprints[name]


def _time_key(structural_hash: str) -> str:
    return digest_of({"schema": TIMES_SCHEMA, "what": "times", "structural_hash": structural_hash, **here()})


class Lessons:
    """What was learned about cost models, in this process and on disk; one for all graphs of a store.

    Args:
        store: the disk cache; None: what is learned ends with the process.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._by_model: dict[str, Learned] = {}
        self._lock = new_lock()

    def about(self, model: str) -> Learned:
        """What is known about the model of this name, here and with these versions and threads."""
        key = self._key(model)
        with self._lock:
            if key not in self._by_model:
                self._by_model[key] = self._read(key)
            return self._by_model[key]

    def keep(self, model: str) -> None:
        """Put what is known about a model on disk."""
        if self._store is None:
            return
        key = self._key(model)
        now = now_text()
        rows = self.about(model).to_json()
        header = {
            "schema": TIMES_SCHEMA,
            "what": "lessons",
            "label": f"corrections of the cost model {model}",
            "created": now,
        }
        self._store.put(key, {**header, "corrections": rows}, b"")

    def _read(self, key: str) -> Learned:
        entry = self._store.get(key) if self._store is not None else None
        if entry is None:
            return Learned()
        try:
            return Learned.from_json(entry.header["corrections"])
        except (KeyError, TypeError, ValueError) as error:
            log.warning("what was learned about a cost model is ignored: %r", error)
            return Learned()

    def _key(self, model: str) -> str:
        return digest_of({"schema": TIMES_SCHEMA, "what": "lessons", "model": model, **here()})


def lessons(store: Store | None) -> Lessons:
    """The lessons of a store; the same object each time."""
    root = str(store.root) if store is not None else ""
    if root not in _LESSONS:
        _LESSONS[root] = Lessons(store)
    return _LESSONS[root]


_LESSONS: dict[str, Lessons] = {}
