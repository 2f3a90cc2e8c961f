"""The invariants of the SRG, each by name. Passes name them in ``requires`` and ``ensures``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from djinn_fx.errors import DjinnError, VerifyError
from djinn_fx.srg.extract import size_ops
from djinn_fx.srg.graph import SRG

Check = Callable[[SRG], None]


def verify(srg: SRG, names: Iterable[str] = ()) -> None:
    """Check the structural invariants and those named.

    Raises:
        VerifyError: the first invariant that does not hold, by name, with the node.
        KeyError: a name that is no invariant.
    """
    for name in dict.fromkeys((*STRUCTURAL, *names)):
        try:
            INVARIANTS[name](srg)
        except VerifyError as error:
            raise VerifyError(f"invariant {name!r} does not hold after {srg.made_by!r}: {error}") from None


def _recorded(srg: SRG) -> None:
    """Every node carries one record."""
    for node in srg.nodes:
        try:
            srg.record(node)
        except DjinnError as error:
            raise VerifyError(str(error)) from None


def _mutations_named(srg: SRG) -> None:
    """Every mutated name is an input of the op."""
    for node in srg.ops:
        sources = {source.name for source in node.all_input_nodes}
        for name in srg.record(node).mutates:
            if name not in sources:
                raise VerifyError(f"{node.name!r} mutates {name!r}, which it does not read")


def _ops_ordered(srg: SRG) -> None:
    """Every op comes after the values that it reads."""
    seen = set(srg.inputs)
    for node in srg.nodes:
        late = next((source for source in node.all_input_nodes if source not in seen), None)
        if late is not None:
            raise VerifyError(f"{node.name!r} reads {late.name!r}, which comes after it")
        seen.add(node)


def _phases_known(srg: SRG) -> None:
    """Every op has a phase."""
    for node in srg.ops:
        if srg.record(node).phase is None:
            raise VerifyError(f"{node.name!r} has no phase")


def _lifetimes_valid(srg: SRG) -> None:
    """Every value's lifetime is half-open, not empty, and covers each use."""
    position = {node.name: index for index, node in enumerate(srg.nodes)}
    for node in srg.nodes:
        record = srg.record(node)
        if node.op == "output":
            continue
        if record.lifetime is None:
            raise VerifyError(f"{node.name!r} has no lifetime")
        start, end = record.lifetime
        if start >= end:
            raise VerifyError(f"{node.name!r} has the empty lifetime [{start}, {end})")
        for user in node.users:
            if position[user.name] >= end:
                raise VerifyError(f"{node.name!r} is freed at {end} but used by {user.name!r} later")


def _memory_valid(srg: SRG) -> None:
    """Every piece of memory has a name, a size and a span of steps that is not empty; every op is one step."""
    plan = srg.memory
    if plan is None:
        raise VerifyError("there is no memory plan")
    if sorted(step.name for step in plan.steps) != sorted(node.name for node in srg.ops):
        raise VerifyError("the steps of the memory plan are not the graph's ops")
    for row in plan.rows:
        if not 0 <= row.start < row.end <= max(1, len(plan.steps)) or row.nbytes < 0:
            raise VerifyError(f"{row.name!r}: {row.nbytes} bytes in [{row.start}, {row.end}) of {len(plan.steps)}")


def _regions_partition(srg: SRG) -> None:
    """Every op is in exactly one region, and its record says which; size ops are wherever they are needed."""
    seen: dict[str, int] = {}
    sizes = {node.name for node in size_ops(srg)}
    for region in srg.regions:
        for name in region.nodes:
            if name in sizes:
                continue
            if name in seen:
                raise VerifyError(f"{name!r} is in regions {seen[name]} and {region.index}")
            seen[name] = region.index
    for node in srg.ops:
        if node.name in sizes:
            continue
        if node.name not in seen:
            raise VerifyError(f"{node.name!r} is in no region")
        if srg.record(node).region != seen[node.name]:
            raise VerifyError(f"{node.name!r} says region {srg.record(node).region}, is in {seen[node.name]}")


def _order_valid(srg: SRG) -> None:
    """The order runs each region once, each after all it reads from, and no write before a read of the old value."""
    if sorted(srg.order) != list(range(len(srg.regions))):
        raise VerifyError(f"the order {srg.order} is not a permutation of {len(srg.regions)} regions")
    position = {index: place for place, index in enumerate(srg.order)}
    made_in = {name: region.index for region in srg.regions for name in region.nodes}
    for region in srg.regions:
        for name in region.inputs:
            maker = made_in.get(name)
            if maker is not None and position[maker] >= position[region.index]:
                raise VerifyError(f"region {region.index} runs before region {maker}, which makes {name!r}")
    _writes_after_reads(srg, {name: position[index] for name, index in made_in.items()})


def _writes_after_reads(srg: SRG, runs_at: dict[str, int]) -> None:
    writers = [(n, target) for n in srg.ops for target in srg.record(n).mutates]
    if not writers:
        return
    storages = {n.name: {m.storage for m in srg.record(n).outputs} for n in srg.nodes}
    index = {node.name: place for place, node in enumerate(srg.nodes)}
    for writer, target in writers:
        for node in srg.ops:
            if node is writer or node.name not in runs_at or writer.name not in runs_at:
                continue
            touches = any(storages[source.name] & storages[target] for source in node.all_input_nodes)
            before = index[node.name] < index[writer.name]
            early = runs_at[node.name] <= runs_at[writer.name] if before else runs_at[node.name] >= runs_at[writer.name]
            if touches and not early:
                raise VerifyError(f"{writer.name!r} writes {target!r} out of order with {node.name!r}")


def _placed(srg: SRG) -> None:
    """Every op has a device."""
    for node in srg.ops:
        if srg.record(node).device is None:
            raise VerifyError(f"{node.name!r} has no device")


def _costed(srg: SRG) -> None:
    """Every op has a cost (an op without a rule has one with provenance ``unpriced``)."""
    for node in srg.ops:
        if srg.record(node).cost is None:
            raise VerifyError(f"{node.name!r} has no cost")


STRUCTURAL = ("recorded", "mutations-named")

INVARIANTS: dict[str, Check] = {
    "recorded": _recorded,
    "mutations-named": _mutations_named,
    "phases-known": _phases_known,
    "lifetimes-valid": _lifetimes_valid,
    "memory-valid": _memory_valid,
    "regions-partition": _regions_partition,
    "ops-ordered": _ops_ordered,
    "order-valid": _order_valid,
    "placed": _placed,
    "costed": _costed,
}
