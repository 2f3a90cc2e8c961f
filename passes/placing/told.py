"""What was decided about devices, as plain data: who has what, what passes, and how good that is known to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from djinn_fx.passes.placing.bounds import bound_of
from djinn_fx.passes.placing.chain import Row, Shares
from djinn_fx.passes.placing.pieces import Placed, views_with_readers
from djinn_fx.passes.placing.pins import module_path
from djinn_fx.passes.placing.request import Placing, PricedDevice
from djinn_fx.passes.placing.units import Unit
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Passage, Placement, Share
from djinn_fx.srg.record import RESIDENT


def placement_of(
    srg: SRG, units: Sequence[Unit], row: Row, chosen: Shares, other: Shares | None, placing: Placing
) -> Placement:
    """The decision as data.

    Args:
        srg: the graph.
        units: of it.
        row: the problem that they make.
        chosen: its answer.
        other: the next best, if there was one.
        placing: what it keeps to.
    """
    names = placing.names
    placed = views_with_readers(
        srg, [(unit, names[device]) for unit, device in zip(units, chosen.devices, strict=True)]
    )
    spent, taken = loads(row, chosen), memory_taken(row, chosen)
    shares = tuple(
        Share(
            device=names[device],
            row=_row_of(placing, device),
            parts=_parts(srg, (unit for unit, at in placed if at == names[device])),
            time_s=spent[device],
            memory_bytes=taken[device],
            limit_bytes=placing.devices[device].memory_bytes,
        )
        for device in chosen.used
    )
    return Placement(
        topology=placing.topology.name,
        objective="throughput" if row.throughput else "latency",
        elsewhere=placing.elsewhere,
        devices=len(names),
        shares=shares,
        passages=tuple(_passages(srg, placed, placing)),
        figure_s=chosen.figure_s,
        bound_s=min(bound_of(row), chosen.figure_s),
        runner_up=tuple(names[device] for device in other.used) if other is not None else (),
        runner_up_s=other.figure_s if other is not None else None,
    )


def loads(row: Row, shares: Shares) -> dict[int, float]:
    """Seconds of each device that has something to do."""
    spent = dict.fromkeys(shares.used, 0.0)
    for seconds, device in zip(row.seconds, shares.devices, strict=True):
        spent[device] += seconds[device]
    return spent


def memory_taken(row: Row, shares: Shares) -> dict[int, int]:
    """Bytes that each device's part takes: what it holds, and the most that passes while it runs."""
    found = {}
    for device in shares.used:
        mine = {place for place, other in enumerate(shares.devices) if other == device}
        held = sum(one.nbytes for one in row.held if mine & set(one.users))
        found[device] = held + max(row.live[place] for place in mine)
    return found


def _row_of(placing: Placing, device: int) -> str:
    one = placing.devices[device]
    return one.pricing.device.name if isinstance(one, PricedDevice) else f"{len(one.cores)} of this machine's cores"


def _parts(srg: SRG, units: Iterator[Unit]) -> tuple[str, ...]:
    """The modules of what runs there, layers by their numbers; the regions' labels where no op is of a module."""
    modules, labels = dict[str, None](), dict[str, None]()
    for unit in units:
        labels[unit.region.label] = None
        ops = [node for node in unit.nodes if not srg.record(node).is_view]  # a weight's view may stand anywhere
        modules.update(dict.fromkeys(_layer(module_path(node)) for node in ops))
    modules.pop("", None)
    return tuple(modules or labels)


def _layer(path: str) -> str:
    """A module's path up to the first number in it."""
    parts = path.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: number + 1])


def _passages(srg: SRG, placed: Sequence[Placed], placing: Placing) -> Iterator[Passage]:
    """Each value that another device reads, once a device; what stays in memory between calls passes nowhere.

    Where devices have memory of their own, what comes in and goes out is on the device of the graph's tensors.
    """
    ends = placing.home if placing.apart else None
    home = {node: device for unit, device in placed for node in unit.nodes}
    for node in srg.nodes:
        if node.op == "get_attr" or (node.op == "placeholder" and srg.record(node).residency in RESIDENT):
            continue
        readers = dict.fromkeys(home[user] for user in node.users if user in home)
        if ends is not None and node in home and srg.output in node.users:
            readers.setdefault(ends)
        source = home.get(node) or ends or next(iter(readers), None)
        nbytes = srg.record(node).nbytes
        for target in readers:
            if source is not None and target != source and nbytes:
                found = placing.transfer(source, target, nbytes)
                yield Passage(
                    value=node.name,
                    source=source,
                    target=target,
                    nbytes=nbytes,
                    time_s=found.time_s,
                    route=found.route.nodes,
                )
