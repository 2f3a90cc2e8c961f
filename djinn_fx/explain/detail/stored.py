"""What the disk cache has of a plan's regions, without asking any engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from djinn_fx.explain.report import CacheLookup
from djinn_fx.settings.table import Settings
from djinn_fx.store.opening import open_store

if TYPE_CHECKING:
    from djinn_fx.compiling.captured import CapturedGraph

#: The outcome of a look that asked for nothing.
STORED = "stored"


def stored(graphs: Sequence[CapturedGraph], settings: Settings) -> tuple[CacheLookup, ...]:
    """The artefacts that were built for the structure of a distinct region; none for a region without any.

    Whether one of them fits (its engine's version, the sizes) only a build finds out.
    """
    store, _ = open_store(settings)
    if store is None:
        return ()
    known: dict[str, list[tuple[str, str]]] = {}
    with suppress(OSError):  # a folder that cannot be read has nothing for anybody
        for entry in store.entries():
            fields, engine = entry.header.get("fields"), entry.header.get("engine")
            if isinstance(fields, dict) and isinstance(engine, str):
                known.setdefault(str(fields.get("structural_hash")), []).append((engine, entry.key))
    found, seen = [], set[str]()
    for place, graph in enumerate(graphs):
        for region in graph.plan.regions:
            if region.structural_hash and region.structural_hash not in seen:
                seen.add(region.structural_hash)
                found += [
                    CacheLookup(scenario=0, graph=place, region=region.index, engine=engine, outcome=STORED, key=key)
                    for engine, key in sorted(known.get(region.structural_hash, []))
                ]
    return tuple(found)
