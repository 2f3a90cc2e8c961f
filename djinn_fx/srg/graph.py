"""The SRG itself: records on the nodes of an FX graph, and the facts about the graph as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch.fx import GraphModule, Node

from djinn_fx.errors import LoweringError
from djinn_fx.reasons import Reason
from djinn_fx.srg.memory import MemoryPlan
from djinn_fx.srg.plan import Placement, Region, Transfer
from djinn_fx.srg.record import GraphKind, OpRecord, Phase

META_KEY = "srg"
_FIELDS = frozenset(one.name for one in fields(OpRecord))
#: The fields that say what an op does; the others say what was decided about it.
_MEANING = frozenset(("op", "outputs", "is_view", "mutates"))
T = TypeVar("T")


class SRG:
    """A typed view over one ``torch.fx.GraphModule``.

    The FX graph stays the only structure. Each node carries exactly one frozen :class:`OpRecord`, read and
    replaced only through this class.

    Attributes:
        gm: the graph module; passes change records and graph-level facts; of the nodes only order-ops
            changes anything, and that is their sequence.
        kind: inference, forward or backward.
        made_by: name of the pass that ran last.
        phase: of the whole graph, if it is one.
        regions: set by find-regions.
        order: region indices in execution order, set by order.
        transfers: set by plan-transfers.
        peak_bytes: set by lifetimes, then by plan-memory.
        memory: set by plan-memory.
        placement: set by place, where there is more than one device to choose from.
        reasons: decisions about the graph as a whole.
        home: the device that the tensors are on, where regions are placed on devices with memory of their own: those on
            another are built for that one. None else.
        uncut: regions and reasons as they were before the graph was spread over devices; None if it was not.
    """

    def __init__(self, gm: GraphModule, kind: GraphKind) -> None:
        self.gm = gm
        self.kind = kind
        self.made_by = "lower"
        self.phase: Phase | None = None
        self.regions: tuple[Region, ...] = ()
        self.order: tuple[int, ...] = ()
        self.transfers: tuple[Transfer, ...] = ()
        self.peak_bytes = 0
        self.memory: MemoryPlan | None = None
        self.placement: Placement | None = None
        self.home: str | None = None
        self.reasons: tuple[Reason, ...] = ()
        self.uncut: tuple[tuple[Region, ...], tuple[Reason, ...]] | None = None
        self._facts: dict[tuple[Any, ...], Any] = {}
        self._by_name: dict[str, Node] = {node.name: node for node in gm.graph.nodes}

    @property
    def nodes(self) -> Iterator[Node]:
        """All nodes in graph order."""
        return iter(self.gm.graph.nodes)

    @property
    def ops(self) -> Iterator[Node]:
        """The nodes that compute something: calls, in graph order."""
        return (node for node in self.gm.graph.nodes if node.op.startswith("call_"))

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The placeholders, in call order."""
        return tuple(self.gm.graph.find_nodes(op="placeholder"))

    @property
    def output(self) -> Node:
        """The output node."""
        return self.gm.graph.output_node()

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            KeyError: there is none.
        """
        return self._by_name[name]

    def record(self, node: Node) -> OpRecord:
        """The node's record.

        Raises:
            LoweringError: the node was added behind the SRG's back.
        """
        record: OpRecord | None = node.meta.get(META_KEY)
        if record is None:
            raise LoweringError(f"node {node.name!r} has no record: it was added after lowering")
        return record

    def set_record(self, node: Node, record: OpRecord) -> None:
        """Give the node this record."""
        self.forget_facts()
        node.meta[META_KEY] = record

    def update(self, node: Node, *, reason: Reason | None = None, **changes: Any) -> None:
        """Replace fields of the node's record, and add a reason if one is given."""
        record = self.record(node)
        if reason is not None:
            changes["reasons"] = (*record.reasons, reason)
        if not _MEANING.isdisjoint(changes):
            self.forget_facts()
        node.meta[META_KEY] = _with(record, changes)

    def fact(self, of: Callable[..., T], *given: Any) -> T:
        """What a function finds out about the graph, worked out once for all who ask.

        Args:
            of: looks at the sequence of the nodes, at what they call and with what, and of their records at ``op``,
                ``outputs``, ``is_view`` and ``mutates``. Nobody changes what it gives.
            given: what it is called with besides the graph.
        """
        key = (of, *given)
        if key not in self._facts:
            self._facts[key] = of(self, *given)
        found: T = self._facts[key]
        return found

    def forget_facts(self) -> None:
        """Nothing that was found out about the graph need hold any more."""
        self._facts.clear()

    def reorder(self, nodes: Iterable[Node]) -> None:
        """Put these nodes behind all others but the output, in this order."""
        self.forget_facts()
        output = self.output
        for node in nodes:
            output.prepend(node)


def _with(record: OpRecord, changes: dict[str, Any]) -> OpRecord:
    """A copy of a record with other fields, as ``dataclasses.replace`` makes it, in a tenth of the time.

    Raises:
        TypeError: a record has no such field.
    """
    if not _FIELDS.issuperset(changes):
        raise TypeError(f"a record has no field {', '.join(sorted(changes.keys() - _FIELDS))}")
    made = object.__new__(OpRecord)
    made.__dict__.update(record.__dict__, **changes)
    return made


def fake_value(node: Node) -> Any:
    """The node's compile-time value: a FakeTensor, a SymInt, a number, or a tuple or list of these."""
    return node.meta.get("val", node.meta.get("example_value"))


def fakes_of(arguments: Iterable[Any]) -> list[Any]:
    """Arguments of a call, nodes by their compile-time values."""
    return [fake_value(one) if isinstance(one, Node) else one for one in arguments]


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors in a node's value, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []


def only_user(node: Node) -> Node | None:
    """The node that reads this one, if just one does."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def size_hint(size: int | torch.SymInt) -> int:
    """The example's value of a size, without adding a guard; 0 for a size that is not known before run time."""
    if isinstance(size, torch.SymInt):
        hint = size.node.hint
        return int(hint) if hint is not None else 0
    return int(size)


def attribute(module: torch.nn.Module | None, path: object) -> Any:
    """What a ``get_attr`` node names: the attribute of its graph's module at a dotted path."""
    value: Any = module
    for part in str(path).split("."):
        value = getattr(value, part)
    return value
