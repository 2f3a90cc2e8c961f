"""The work of a graph, computed once, and of any part of it; and what engines would take for a region."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.work.work import WorkGraph, total
from djinn_fx.costmodels.work.work_of import work_graph
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import EngineTime, Region
from djinn_fx.srg.record import Cost


class GraphWork:
    """The work of one graph as it is now.

    Args:
        srg: the graph.
    """

    def __init__(self, srg: SRG) -> None:
        self.whole = work_graph(srg)
        self._index = {name: place for place, name in enumerate(self.whole.names)}

    @functools.cached_property
    def _readers(self) -> list[list[int]]:
        """For each op, the ops that read it."""
        readers: list[list[int]] = [[] for _ in self.whole.ops]
        for place, reads in enumerate(self.whole.reads):
            for read in reads:
                if read.producer >= 0:
                    readers[read.producer].append(place)
        return readers

    def part(self, names: Sequence[str]) -> WorkGraph:
        """The work of some ops: what reads from other ops reads from outside, what others read escapes.

        Raises:
            KeyError: no such op when this was made.
        """
        places = sorted(self._index[name] for name in names)
        if len(places) == len(self.whole):
            return self.whole
        inside = {place: new for new, place in enumerate(places)}
        return WorkGraph(
            ops=tuple(self.whole.ops[place] for place in places),
            reads=tuple(
                tuple(
                    read if read.producer < 0 else replace(read, producer=inside.get(read.producer, -1))
                    for read in self.whole.reads[place]
                )
                for place in places
            ),
            escapes=tuple(
                self.whole.escapes[place] or any(reader not in inside for reader in self._readers[place])
                for place in places
            ),
            names=tuple(self.whole.names[place] for place in places),
        )


#: Of the graphs that were planned last, as estimate-cost found them.
_KNOWN: WeakKeyDictionary[SRG, GraphWork] = WeakKeyDictionary()
#: How many: a model's graphs are remembered long after they were planned, their work need not be.
_KEPT = 4


def graph_work(srg: SRG, *, fresh: bool = False) -> GraphWork:
    """A graph's work; computed once unless ``fresh`` asks for it anew."""
    if fresh or srg not in _KNOWN:
        found = _KNOWN[srg] = GraphWork(srg)
        for old in list(_KNOWN)[:-_KEPT]:
            _KNOWN.pop(old, None)
        return found
    return _KNOWN[srg]


def part_of(srg: SRG, names: Sequence[str]) -> WorkGraph:
    """The work of some ops of a graph, also of those that a pass added since the graph was priced."""
    try:
        return graph_work(srg).part(names)
    except KeyError:
        return graph_work(srg, fresh=True).part(names)


def priced(region: Region, work: WorkGraph, pricing: Pricing, engines: Sequence[str]) -> Region:
    """A region with what each engine would take for it, and the cost of the first, which will serve it.

    Args:
        region: the region.
        work: its own.
        pricing: by what it is priced.
        engines: at least one.
    """
    times = []
    for engine in dict.fromkeys(engines):
        estimate = pricing.region(work, engine, region.structural_hash)
        times.append(
            EngineTime(
                engine=engine,
                time_s=estimate.time_s,
                low_s=estimate.low_s,
                high_s=estimate.high_s,
                provenance=estimate.provenance,
            )
        )
    return replace(region, cost=_cost(work, times[0]), times=tuple(times))


def _cost(work: WorkGraph, time: EngineTime) -> Cost:
    """The cost of a region that takes so long."""
    whole = total(work.ops)
    return Cost(
        flops=whole.flops,
        read_bytes=whole.weight_bytes + whole.read_bytes,
        write_bytes=whole.write_bytes,
        time_s=time.time_s,
        low_s=time.low_s,
        high_s=time.high_s,
        provenance=time.provenance,
    )
