"""Where ops are wanted: by pins, by what they touch, and in a backward graph by where their forward ops are."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.passes.placing.pins import Pins, module_path
from djinn_fx.passes.placing.request import Placing
from djinn_fx.srg.effects import is_random, storages_of
from djinn_fx.srg.extract import is_body
from djinn_fx.srg.graph import SRG, fake_value
from djinn_fx.srg.plan import Region

#: A region of a backward graph is not cut for less than this share of its time.
SMALL_SHARE = 0.2


def pinned(srg: SRG, placing: Placing) -> dict[Node, str]:
    """The device of each op that a pin is about.

    Raises:
        SettingsError: two pins contradict each other.
    """
    if not placing.pins:
        return {}
    pins = Pins(placing.pins)
    found = {node: pins.of(module_path(node)) for node in srg.ops}
    return {node: pin.device for node, pin in found.items() if pin is not None}


def at_home(srg: SRG, placing: Placing) -> dict[Node, str]:
    """The device of each op that reads what an earlier graph of the model keeps somewhere: its weights and its state.

    One that reads from two devices may go anywhere.
    """
    found: dict[Node, set[str]] = {}
    for node in srg.inputs:
        device = placing.settled.get(node.name)
        readers = list(node.users) if device in placing.names else []
        for reader in readers:
            found.setdefault(reader, set()).add(str(device))
            if srg.record(reader).is_view:  # a weight's transpose is read as the weight
                readers.extend(reader.users)
    return {node: next(iter(devices)) for node, devices in found.items() if len(devices) == 1 and node.op != "output"}


def tied_to_home(srg: SRG) -> frozenset[Node]:
    """The ops that must run on the device of the graph's tensors, where the others have memory of their own.

    A value that passes is copied, so whoever writes memory, or reads or gives what somebody writes, stays; so does who
    draws random numbers, as each device has a generator of its own, and whatever is no op of ATen's on plain tensors:
    of that it is not known whether it asks which device it is on.
    """
    return srg.fact(_tied)


def _tied(srg: SRG) -> frozenset[Node]:
    storages = srg.fact(storages_of)
    written = {storage for node in srg.ops for name in srg.record(node).mutates for storage in storages[srg.node(name)]}

    def touches(node: Node) -> bool:
        return any(not written.isdisjoint(storages[one]) for one in (node, *node.all_input_nodes))

    return frozenset(
        node for node in srg.ops if srg.record(node).mutates or touches(node) or is_random(node) or _is_odd(srg, node)
    )


def _is_odd(srg: SRG, node: Node) -> bool:
    """Whether it is none of ATen's ops on plain tensors, and neither reckons with sizes nor takes from a tuple."""
    metas = [meta for one in (node, *node.all_input_nodes) for meta in srg.record(one).outputs]
    known = isinstance(node.target, OpOverload) and node.target.namespace in ("aten", "prims")
    if not (known or node.target is operator.getitem or not metas) or any(one.layout != "strided" for one in metas):
        return True
    constants = (one for one in node.all_input_nodes if one.op == "get_attr")
    return any(is_body(one) or fake_value(one) is None for one in constants)


def placed_forward(srg: SRG) -> dict[int, str]:
    """The device of each op of a forward graph, by autograd's number for it: its backward ops have that too."""
    found: dict[int, str] = {}
    for node in srg.ops:
        number, device = node.meta.get("seq_nr"), srg.record(node).device
        if number is not None and number >= 0 and device is not None:
            found[number] = device
    return found


def followed(srg: SRG, devices: Mapping[int, str], default: str) -> dict[Node, str]:
    """The device of every op of a backward graph: that of its forward op.

    One that has none (it adds two gradients up) goes where the value comes from that it reads.
    """
    found: dict[Node, str] = {}
    for node in srg.ops:
        known = "fwd_nn_module_stack" in node.meta or "nn_module_stack" in node.meta
        near = next((found[source] for source in node.all_input_nodes if source in found), None)
        own = devices.get(node.meta.get("seq_nr", -1))
        found[node] = (own if known else near or own) or near or default
    for node in reversed(list(found)):  # a view is where it is read: a weight's, of a layer's backward ops
        reader = next((found[user] for user in node.users if user in found), None)
        if srg.record(node).is_view and reader is not None:
            found[node] = reader
    for region in srg.regions:
        _smooth(srg, region, found)
    return found


def _smooth(srg: SRG, region: Region, found: dict[Node, str]) -> None:
    """Put all of a region where most of it is, if the rest is little."""
    spent: dict[str, float] = {}
    nodes = [srg.node(name) for name in region.nodes]
    for node in nodes:
        cost = srg.record(node).cost
        spent[found[node]] = spent.get(found[node], 0.0) + (cost.time_s if cost is not None else 0.0)
    if len(spent) > 1:
        most = max(spent, key=lambda device: spent[device])
        if sum(spent.values()) - spent[most] <= SMALL_SHARE * sum(spent.values()):
            found.update(dict.fromkeys(nodes, most))
