"""Stretches that took longer than was thought when they were measured: the row as it looks by these times.

Where a graph is first cut, no time of it is known but by a model, which may be wrong by more for one device's part than
for another's. Later processes know what each part took: their units are taken to be as much slower or faster as the
part was, and shared out again.
"""

from __future__ import annotations

from dataclasses import replace

from djinn_fx.costmodels.estimate import MEASURED
from djinn_fx.passes.placing.chain import Row, Shares
from djinn_fx.passes.placing.request import Placing
from djinn_fx.passes.placing.told import loads
from djinn_fx.srg.graph import SRG


def measured_loads(srg: SRG, placing: Placing) -> dict[int, float] | None:
    """Seconds of each device by its regions' measured times; None if one of them was not measured."""
    if any(one.cost.provenance != MEASURED or one.device not in placing.names for one in srg.regions):
        return None
    spent: dict[int, float] = {}
    for region in srg.regions:
        place = placing.names.index(region.device)
        spent[place] = spent.get(place, 0.0) + region.cost.time_s
    return spent


def corrected(row: Row, shares: Shares, measured: dict[int, float]) -> Row:
    """The row with each unit as much slower as the part that it was in.

    Args:
        row: as it was thought to be.
        shares: by which it was shared out.
        measured: what each device's part took.
    """
    thought = loads(row, shares)
    factor = {place: measured.get(place, spent) / spent if spent > 0 else 1.0 for place, spent in thought.items()}
    return replace(
        row,
        seconds=tuple(
            tuple(one * factor[place] for one in seconds)
            for seconds, place in zip(row.seconds, shares.devices, strict=True)
        ),
    )
