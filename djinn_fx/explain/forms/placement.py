"""A placement in lines of text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from djinn_fx.srg.plan import Passage, Placement, Share
from djinn_fx.units import format_bytes, format_seconds

#: Passages that are listed.
_MOST = 8
_NUMBERED = re.compile(r"(.*?)(\d+)$")


def placement_lines(placement: Placement) -> Iterator[str]:
    """What is where, what passes, and how good that is known to be; a line each."""
    where = f"over {placement.topology} ({placement.devices} devices{', not here' if placement.elsewhere else ''})"
    yield f"{where}, for {_aim(placement)}"
    for share in placement.shares:
        yield _share(share)
    if len(placement.shares) == 1:
        yield f"one device is enough: {placement.shares[0].device}; more are not worth it for {_aim(placement)}"
    for passage in placement.passages[:_MOST]:
        yield _passage(passage)
    if len(placement.passages) > _MOST:
        yield f"+{len(placement.passages) - _MOST} more transfers, see --json"
    bound = f"no placement is below {format_seconds(placement.bound_s)} (gap {placement.gap:.1%})"
    yield f"{format_seconds(placement.figure_s)} for {_aim(placement)}; {bound}"
    if placement.runner_up_s is not None:
        yield f"next best: {', '.join(placement.runner_up)}, {format_seconds(placement.runner_up_s)}"


def _aim(placement: Placement) -> str:
    return "many calls in a row (the slowest device's time)" if placement.objective == "throughput" else "one call"


def _share(share: Share) -> str:
    limit = "no limit" if share.limit_bytes is None else format_bytes(share.limit_bytes)
    memory = f"{format_bytes(share.memory_bytes)} of {limit}"
    return f"{share.device} ({share.row}): {spans(share.parts)}; {format_seconds(share.time_s)}; {memory}"


def _passage(passage: Passage) -> str:
    route = " → ".join(passage.route)
    return f"{passage.value}: {format_bytes(passage.nbytes)}, {route}, {format_seconds(passage.time_s)}"


def spans(labels: Sequence[str]) -> str:
    """Labels in a row; those that count on from one another as one range: ``"model.layers.0-7"``."""
    found: list[str] = []
    first = last = None
    for label in labels:
        match = _NUMBERED.fullmatch(label)
        here = (match[1], int(match[2])) if match is not None else None
        if here is not None and last is not None and here == (last[0], last[1] + 1):
            found[-1] = f"{here[0]}{first}-{here[1]}"
        else:
            found.append(label)
            first = here[1] if here is not None else None
        last = here
    return ", ".join(found)
