"""Where a graph's time goes: by the user's modules, by operator, and by what limits the device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch.fx import Node

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.graph_work import part_of
from djinn_fx.costmodels.laws.roofline import SPECIAL_FLOPS
from djinn_fx.costmodels.work.work import Work
from djinn_fx.hardware.device import Device
from djinn_fx.passes.placing.pins import module_path
from djinn_fx.srg.graph import SRG

#: Entries that are listed.
MOST = 12
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)")

Limit = Literal["compute", "memory", "overhead"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Estimated seconds of ops by what limits them on a roofline: arithmetic, memory traffic, or being started."""

    compute_s: float = 0.0
    memory_s: float = 0.0
    overhead_s: float = 0.0

    @property
    def most(self) -> Limit:
        """What limits most of the time."""
        return max(("compute", "memory", "overhead"), key=lambda name: getattr(self, f"{name}_s"))


@dataclass(frozen=True, kw_only=True)
class SpentOn:
    """Ops that belong together.

    Attributes:
        name: the module's path, numbers of layers that are alike as ``*``; or the operator.
        kind: the module's class; empty for an operator.
        places: how many modules of that name there are; of an operator, in how many modules it is called.
        ops: how many ops.
        time_s: estimated seconds, each op on its own.
        share: of the graph's ops.
        flops: operations.
        nbytes: bytes read and written.
        limited_by: what limits most of that time.
    """

    name: str
    kind: str
    places: int
    ops: int
    time_s: float
    share: float
    flops: int
    nbytes: int
    limited_by: Limit


@dataclass(frozen=True, kw_only=True)
class Spent:
    """A graph's estimated time, op by op.

    Attributes:
        time_s: of all ops, each on its own.
        limits: by what limits them.
        flops_per_byte: operations for each byte that is moved.
        ridge: from so many on the device computes longer than it moves, in float32.
        modules: the costliest modules, the first the costliest.
        operators: the costliest operators likewise.
    """

    time_s: float
    limits: Limits
    flops_per_byte: float
    ridge: float
    modules: tuple[SpentOn, ...]
    operators: tuple[SpentOn, ...]


@dataclass(frozen=True)
class _Op:
    node: Node
    work: Work
    time_s: float
    limit: Limit
    module: str
    kind: str
    op: str


def spent(srg: SRG, pricing: Pricing) -> Spent:
    """Where the time of a priced graph goes."""
    ops = [_op(srg, node, work, pricing.device) for node, work in _works(srg)]
    time = sum(one.time_s for one in ops)
    nbytes = sum(one.work.nbytes for one in ops)
    return Spent(
        time_s=time,
        limits=_limits(ops),
        flops_per_byte=sum(one.work.flops for one in ops) / max(1, nbytes),
        ridge=pricing.device.peak("float32") / pricing.device.bandwidth_bytes_s,
        modules=_costliest(ops, time, lambda one: (_NUMBER.sub("*", one.module), one.kind)),
        operators=_costliest(ops, time, lambda one: (one.op, "")),
    )


def _works(srg: SRG) -> Iterable[tuple[Node, Work]]:
    whole = part_of(srg, [node.name for node in srg.ops])
    return ((srg.node(name), work) for name, work in zip(whole.names, whole.ops, strict=True))


def _op(srg: SRG, node: Node, work: Work, device: Device) -> _Op:
    record = srg.record(node)
    return _Op(
        node=node,
        work=work,
        time_s=record.cost.time_s if record.cost is not None else 0.0,
        limit=limit(work, device),
        module=module_path(node),
        kind=_class_of(node),
        op=record.op,
    )


def limit(work: Work, device: Device) -> Limit:
    """What an op takes longest for on a roofline; of one without a rule only the bytes are known."""
    compute = (work.matmul_flops + work.vector_flops + SPECIAL_FLOPS * work.special_flops) / device.peak(work.dtype)
    memory = work.nbytes / device.bandwidth_bytes_s
    if max(compute, memory) < device.launch_overhead_s:
        return "overhead"
    return "compute" if compute > memory else "memory"


def _class_of(node: Node) -> str:
    """The class of the module that an op was called in; empty for none."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    kind = next(reversed(stack.values()))[1]
    return str(kind).rpartition(".")[2] if isinstance(kind, str) else str(kind.__name__)


def _costliest(ops: Iterable[_Op], time: float, key: Callable[[_Op], tuple[str, str]]) -> tuple[SpentOn, ...]:
    groups: dict[tuple[str, str], list[_Op]] = {}
    for one in ops:
        groups.setdefault(key(one), []).append(one)
    found = [_together(name, kind, group, time) for (name, kind), group in groups.items()]
    return tuple(sorted((one for one in found if one.time_s > 0), key=lambda one: (-one.time_s, one.name))[:MOST])


def _together(name: str, kind: str, ops: list[_Op], time: float) -> SpentOn:
    seconds = sum(one.time_s for one in ops)
    return SpentOn(
        name=name,
        kind=kind,
        places=len({one.module for one in ops}),
        ops=len(ops),
        time_s=seconds,
        share=seconds / time if time > 0 else 0.0,
        flops=sum(one.work.flops for one in ops),
        nbytes=sum(one.work.nbytes for one in ops),
        limited_by=_limits(ops).most,
    )


def _limits(ops: Iterable[_Op]) -> Limits:
    sums = {"compute": 0.0, "memory": 0.0, "overhead": 0.0}
    for one in ops:
        sums[one.limit] += one.time_s
    return Limits(compute_s=sums["compute"], memory_s=sums["memory"], overhead_s=sums["overhead"])
