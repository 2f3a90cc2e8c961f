"""Roofline: an op takes as long as its arithmetic or its memory traffic, whichever is longer, and its launch.

A first model, to be replaced by calibrated ones: it knows nothing of caches, fusion or how well a kernel uses the
machine. It is good for comparing parts of one graph, not for promising seconds.
"""

from __future__ import annotations

from dataclasses import replace

from torch._ops import HigherOrderOperator
from torch.fx import GraphModule, Node

from djinn_fx.costmodels.rules import is_free, rule_of
from djinn_fx.costmodels.traffic import traffic
from djinn_fx.hardware.device import Device
from djinn_fx.srg.graph import SRG, fake_value
from djinn_fx.srg.lower import lower
from djinn_fx.srg.record import Cost, OpRecord

DATASHEET = "datasheet"
UNPRICED = "unpriced"

FREE = Cost(provenance=DATASHEET)


def price(srg: SRG, node: Node, device: Device) -> tuple[Cost, str | None]:
    """What an op costs on a device, and why it is unpriced if it is.

    An op without a rule still counts its bytes and its launch: its time is a lower bound, its provenance
    ``"unpriced"``.
    """
    record = srg.record(node)
    if (record.is_view and not record.mutates) or is_free(node):
        return FREE, None
    bodies = _bodies(srg, node)
    if bodies:
        return _price_bodies(node, bodies, device)
    read, write = traffic(srg, node, record)
    flops, problem = operations(node)
    seconds = max(flops / device.peak(_compute_dtype(srg, node, record)), (read + write) / device.bandwidth_bytes_s)
    cost = Cost(
        flops=flops,
        read_bytes=read,
        write_bytes=write,
        time_s=seconds + device.launch_overhead_s,
        provenance=UNPRICED if problem else DATASHEET,
    )
    return cost, problem


def operations(node: Node) -> tuple[int, str | None]:
    """Floating-point operations of an op by its rule, and why they are not known if they are not."""
    rule = rule_of(node.target)
    if rule is None:
        return 0, "no rule for this op"
    try:
        return rule(node), None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        return 0, f"the rule for this op does not fit its arguments ({type(error).__name__}: {error})"


def _bodies(srg: SRG, node: Node) -> list[GraphModule]:
    """The graphs a call runs once each or one of: those of ``invoke_subgraph`` and ``cond``."""
    if not isinstance(node.target, HigherOrderOperator) or node.target.name() not in ("invoke_subgraph", "cond"):
        return []
    held = (getattr(srg.gm, str(source.target), None) for source in node.all_input_nodes if source.op == "get_attr")
    return [body for body in held if isinstance(body, GraphModule)]


def _price_bodies(node: Node, bodies: list[GraphModule], device: Device) -> tuple[Cost, str | None]:
    """The cost of a call of a subgraph: the sum over its ops; of several branches, the one that takes longest."""
    costs: list[tuple[Cost, str | None]] = []
    for body in bodies:
        inner = lower(body)
        priced = [price(inner, op, device) for op in inner.ops]
        problems = [f"in its body, {op.name}: {why}" for op, (_, why) in zip(inner.ops, priced, strict=True) if why]
        problems += [f"its body has no sizes at {op.name}" for op in inner.ops if fake_value(op) is None]
        costs.append((sum((cost for cost, _ in priced), FREE), problems[0] if problems else None))
    cost, problem = max(costs, key=lambda pair: pair[0].time_s)
    return (replace(cost, provenance=UNPRICED) if problem else cost), problem


def _compute_dtype(srg: SRG, node: Node, record: OpRecord) -> str:
    """The dtype whose peak applies: of the first tensor read, which decides the kernel; else of the output."""
    for source in node.all_input_nodes:
        outputs = srg.record(source).outputs
        if outputs:
            return outputs[0].dtype
    return record.outputs[0].dtype if record.outputs else "float32"
