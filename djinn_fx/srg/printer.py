"""The SRG as text: FX-like, one line an op, the same bytes for the same graph on every machine and in every run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.reasons import Reason
from djinn_fx.srg.graph import SRG, fake_value
from djinn_fx.srg.lower import target_name
from djinn_fx.srg.memory import MemoryPeak
from djinn_fx.srg.plan import Region, Transfer
from djinn_fx.srg.record import Cost, OpRecord
from djinn_fx.units import format_bytes, format_seconds

_SYMBOL = re.compile(r"\b([a-z]{1,3})(\d+)\b")


def to_text(srg: SRG) -> str:
    """The whole graph as text, ending in a newline.

    Names are the graph's own. Symbols are renamed ``s0``, ``s1``, ... (``u0``, ... for sizes known only at run time)
    by first use. Reasons of nodes are numbered by first use and listed at the end, since many nodes share one.
    There are no memory addresses, no measured times and nothing that depends on the order of a set.
    """
    symbols, notes = Symbols(), Notes()
    lines = [_node_line(srg, node, symbols, notes) for node in srg.nodes]
    return "\n".join([*_header(srg), *lines, *notes.lines()]) + "\n"


class Symbols:
    """New names for symbols, given out by first use."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._given: dict[str, int] = {}

    def rename(self, text: str) -> str:
        """The text of an expression with every symbol renamed."""
        return _SYMBOL.sub(lambda match: self._name(match[0], match[1]), text)

    def _name(self, symbol: str, letters: str) -> str:
        if symbol not in self._names:
            kind = "u" if letters.startswith(("u", "zu")) else "s"
            number = self._given.setdefault(kind, 0)
            self._given[kind] = number + 1
            self._names[symbol] = f"{kind}{number}"
        return self._names[symbol]


class Notes:
    """Numbers for reasons, given out by first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, reason: Reason) -> int:
        """The number of a reason; the same for the same decision on another node."""
        text = str(replace(reason, node=None))
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    def lines(self) -> list[str]:
        """The list of all reasons that have a number."""
        return [f"# why {number} {text}" for text, number in self._numbers.items()]


def _header(srg: SRG) -> Iterator[str]:
    phase = srg.phase.value if srg.phase else "none"
    peak = f", peak {format_bytes(srg.peak_bytes)}" if srg.peak_bytes else ""
    yield f"# srg: {srg.kind.value} graph, made by {srg.made_by}, phase {phase}{peak}"
    distinct: dict[str, int] = {}
    for region in srg.regions:
        yield _region_line(region, distinct)
    if srg.order:
        yield f"# order {' '.join(map(str, srg.order))}"
    for transfer in srg.transfers:
        yield _transfer_line(transfer)
    for one in srg.memory.peaks() if srg.memory is not None else ():
        yield _peak_line(one)
    for reason in srg.reasons:
        yield f"# why {reason}"


def _region_line(region: Region, distinct: dict[str, int]) -> str:
    """A region; regions that one artefact serves show the same code."""
    key = region.structural_hash or f"unhashed {region.index}"
    code = distinct.setdefault(key, len(distinct))
    phase = f" phase={region.phase.value}" if region.phase else ""
    inputs, outputs = (", ".join(f"%{name}" for name in names) for names in (region.inputs, region.outputs))
    return (
        f"# region {region.index} {region.label!r}: {len(region.nodes)} ops, code {code},{phase} dev={region.device}"
        f" cost={_cost(region.cost)} ({inputs}) -> ({outputs})"
    )


def _transfer_line(transfer: Transfer) -> str:
    return (
        f"# transfer %{transfer.value} {transfer.source} -> {transfer.target} before region {transfer.before_region}, "
        f"{format_bytes(transfer.nbytes)}"
    )


def _peak_line(peak: MemoryPeak) -> str:
    biggest = ", ".join(f"%{row.name} {format_bytes(row.nbytes)} {row.holds.value}" for row in peak.biggest)
    during = f" during %{peak.at.name}" if peak.at is not None else ""
    return f"# memory {peak.device}: peak {format_bytes(peak.nbytes)}{during}: {biggest}"


def _node_line(srg: SRG, node: Node, symbols: Symbols, notes: Notes) -> str:
    record = srg.record(node)
    if node.op == "output":
        return f"return {_literal(node.args[0], symbols)}{_facts(record, notes, shown=())}"
    kind = _type(node, record, symbols)
    facts = _facts(record, notes, shown=(record.residency.value,) if node.op == "placeholder" else ())
    return f"%{node.name} : {kind} = {_call(node, record, symbols)}{facts}"


def _call(node: Node, record: OpRecord, symbols: Symbols) -> str:
    if node.op == "placeholder":
        return "placeholder"
    if node.op == "get_attr":
        return f"get_attr[{node.target}]"
    arguments = [_literal(argument, symbols) for argument in node.args]
    arguments += [f"{name}={_literal(node.kwargs[name], symbols)}" for name in sorted(node.kwargs)]
    return f"{record.op}({', '.join(arguments)})"


def _type(node: Node, record: OpRecord, symbols: Symbols) -> str:
    value = fake_value(node)
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return f"{type(value).__name__}({symbols.rename(str(value.node.expr))})"
    types = [f"{meta.dtype}[{', '.join(symbols.rename(str(size)) for size in meta.shape)}]" for meta in record.outputs]
    if len(types) == 1 and isinstance(value, torch.Tensor):
        return types[0]
    return f"({', '.join(types)})" if types else type(value).__name__


def _facts(record: OpRecord, notes: Notes, shown: tuple[str, ...]) -> str:
    """What the passes found, as a comment; only what is set."""
    facts = list(shown)
    if record.is_view and not record.mutates:
        facts.append("view")
    if record.mutates:
        facts.append("writes=" + ",".join(f"%{name}" for name in record.mutates))
    if record.region is not None:
        facts.append(f"region={record.region}")
    if record.phase is not None:
        facts.append(f"phase={record.phase.value}" + (f"/{record.modality.value}" if record.modality else ""))
    if record.device is not None:
        facts.append(f"dev={record.device}")
    if record.lifetime is not None:
        facts.append(f"life=[{record.lifetime[0]},{record.lifetime[1]})")
    if record.cost is not None:
        facts.append(f"cost={_cost(record.cost)}")
    if record.reasons:
        facts.append("why=" + ",".join(str(notes.number(reason)) for reason in record.reasons))
    return "  # " + " ".join(facts) if facts else ""


def _cost(cost: Cost) -> str:
    """Estimated time; where it does not come from a datasheet, the provenance too."""
    time = format_seconds(cost.time_s).replace(" ", "") if cost.time_s else "0"
    return time if cost.provenance == "datasheet" else f"{time}({cost.provenance})"


def _literal(value: Any, symbols: Symbols) -> str:
    """An argument: a reference to a node, or a constant in Python's notation."""
    if isinstance(value, Node):
        return f"%{value.name}"
    if isinstance(value, list):
        return f"[{', '.join(_literal(item, symbols) for item in value)}]"
    if isinstance(value, tuple):
        items = ", ".join(_literal(item, symbols) for item in value)
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, slice):
        return f"slice({', '.join(_literal(item, symbols) for item in (value.start, value.stop, value.step))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_literal(value[key], symbols)}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return symbols.rename(str(value.node.expr))
    return literal_text(value)


def literal_text(value: Any) -> str:
    """A constant as text without addresses: numbers and strings as in Python, torch's own by their names."""
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return repr(value)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value).removeprefix("torch.")
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, torch.Tensor):
        return f"tensor({str(value.dtype).removeprefix('torch.')}{list(value.shape)})"
    return target_name(value) if callable(value) else f"<{type(value).__qualname__}>"
