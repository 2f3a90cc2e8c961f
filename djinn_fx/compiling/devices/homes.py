"""Where the graphs that were planned keep their weights and state, so that the next graph over the same goes there.

A model's prefill and decode are two graphs over one set of weights and one cache of keys and values. Where the second
was placed by itself, each device would hold what the other one works on.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from torch.fx import Node

from djinn_fx.compiling.graph_inputs import place_of
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.record import RESIDENT
from djinn_fx.threads import new_lock

#: What is smaller lies on every device that reads it.
SMALL_BYTES = 4096

#: The memory of a graph's inputs, by their place; None for what has none.
Memories = Sequence["weakref.ref[Any] | None"]


class Homes:
    """The device of each memory that a graph was planned with, kept for as long as the memory lives."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Hashable], tuple[weakref.ref[Any], str]] = {}
        self._lock = new_lock()

    def note(self, srg: SRG, memories: Memories, settings: Settings) -> None:
        """Note where a graph that was placed keeps what stays between its calls; what two devices read is nowhere."""
        request = _request(settings)
        for node, memory in _kept(srg, memories):
            devices = {srg.record(user).device for user in node.users}
            device = devices.pop() if len(devices) == 1 else None
            if device is not None:
                with self._lock:
                    known = self._known.get((id(memory), request))
                    if known is None or known[0]() is not memory:  # another one had its number
                        self._known[id(memory), request] = (weakref.ref(memory), device)

    def of(self, srg: SRG, memories: Memories, settings: Settings) -> Mapping[str, str]:
        """The devices of the inputs of a graph that an earlier one keeps somewhere, by the inputs' names."""
        request = _request(settings)
        found = {}
        for node, memory in _kept(srg, memories):
            with self._lock:
                ref, device = self._known.get((id(memory), request), (None, ""))
            if ref is not None and ref() is memory:
                found[node.name] = device
        return found

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._known.clear()


HOMES = Homes()


def _request(settings: Settings) -> Hashable:
    """What was asked for: with other devices or pins a graph is placed anew."""
    return (settings.devices, settings.workers, settings.links, settings.pins, settings.objective, settings.topology)


def _kept(srg: SRG, memories: Memories) -> Iterator[tuple[Node, Any]]:
    """The inputs that stay in memory between calls, with that memory."""
    for place, node in enumerate(srg.inputs):
        index = place_of(node, place)
        ref = memories[index] if index < len(memories) else None
        memory = ref() if ref is not None else None
        record = srg.record(node)
        if memory is not None and record.residency in RESIDENT and record.nbytes >= SMALL_BYTES:
            yield node, memory
