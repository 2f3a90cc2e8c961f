"""Our artefacts in torch's portable cache: ``torch.compiler.save_cache_artifacts()`` and ``load_cache_artifacts()``.

Opt-in (setting ``mega_cache``): torch reads a bundle as a whole, and one that holds an artefact of a kind that is not
registered is not read at all, Inductor's part included. So whoever loads such a bundle imports this module first; it
registers our kind. An artefact of ours is an entry of the disk cache: JSON header, payload, checksum, no signature.
What arrives is verified, signed and put into the cache that the settings name: who loads a bundle trusts it. A damaged
one is told and left out, and the others are read.

This is the one module that knows torch's private names for that cache.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from typing import Any

from torch.compiler._cache import CacheArtifact, CacheArtifactFactory, CacheArtifactManager

from djinn_fx.errors import StoreError
from djinn_fx.settings.table import Settings
from djinn_fx.store.format import DamagedEntry, StoredEntry, encode, is_key, read_entry
from djinn_fx.store.store import Store

log = logging.getLogger("djinn_fx.store")

KIND = "djinn"


class DjinnCacheArtifact(CacheArtifact):
    """An entry of the disk cache in a bundle."""

    @staticmethod
    def type() -> str:
        """The kind's name in bundles."""
        return KIND

    def populate_cache(self) -> None:
        """Put it into the disk cache, unless it is there."""
        settings = Settings.load()
        if not settings.cache:
            return
        try:
            entry = read_entry(io.BytesIO(self.content), len(self.content), self.key, None)
            store = Store(settings.cache_folder, settings.cache_limit_bytes)
            if is_key(self.key) and not store.has(self.key):
                store.put(self.key, entry.header, entry.payload)
        except (DamagedEntry, StoreError) as problem:
            log.warning("an artefact of a torch cache bundle is left out: %s", problem)


class RecordingStore(Store):
    """A disk cache whose entries go into the bundle too, when they are read and when they are written."""

    def get(self, key: str) -> StoredEntry | None:
        """As :meth:`Store.get`."""
        entry = super().get(key)
        if entry is not None:
            _record(key, entry.header, entry.payload)
        return entry

    def put(self, key: str, header: Mapping[str, Any], payload: bytes) -> bool:
        """As :meth:`Store.put`."""
        kept = super().put(key, header, payload)
        if kept:
            _record(key, header, payload)
        return kept


def _record(key: str, header: Mapping[str, Any], payload: bytes) -> None:
    # Torch takes each key once; an entry that is replaced by a newer one goes in twice, and the newer is read last.
    CacheArtifactManager.record_artifact(KIND, key, b"".join(encode(key, header, payload)))


if KIND not in CacheArtifactFactory._artifact_types:  # a module that is imported anew does not register twice
    CacheArtifactFactory.register(DjinnCacheArtifact)
