"""The SRG and the Plan as JSON, for reports and the wire, with a schema version; and back, as plain data.

The plain form needs no torch: it holds the records, which are plain data themselves, and the arguments as JSON.
A change of any field of a record, a region or a plan is a new schema version.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, cast

import torch
from torch.fx import Node

from djinn_fx.errors import DjinnError
from djinn_fx.reasons import Reason
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan, Region, Transfer
from djinn_fx.srg.printer import literal_text
from djinn_fx.srg.record import GraphKind, OpRecord, Phase

SRG_SCHEMA = "djinn_fx.srg/2"
PLAN_SCHEMA = "djinn_fx.plan/2"

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class SerialisedNode:
    """One node as plain data.

    Attributes:
        name: the graph's own.
        opcode: FX's: ``placeholder``, ``get_attr``, ``call_function``, ``output``.
        target: attribute of a ``get_attr`` node or name of a placeholder; None for calls, see ``record.op``.
        args: JSON values; a reference to a node is ``{"ref": name}``, what JSON lacks is an object with one key.
        kwargs: the same, by name.
        record: what the SRG says about the node.
    """

    name: str
    opcode: str
    target: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    record: OpRecord


@dataclass(frozen=True, kw_only=True)
class SerialisedGraph:
    """One SRG as plain data; the fields are those of :class:`SRG`."""

    kind: GraphKind
    made_by: str
    phase: Phase | None
    peak_bytes: int
    nodes: tuple[SerialisedNode, ...]
    regions: tuple[Region, ...] = ()
    order: tuple[int, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    reasons: tuple[Reason, ...] = ()


def to_plain(srg: SRG) -> SerialisedGraph:
    """The SRG as plain data."""
    return SerialisedGraph(
        kind=srg.kind,
        made_by=srg.made_by,
        phase=srg.phase,
        peak_bytes=srg.peak_bytes,
        nodes=tuple(_plain_node(srg, node) for node in srg.nodes),
        regions=srg.regions,
        order=srg.order,
        transfers=srg.transfers,
        reasons=srg.reasons,
    )


def to_json(graph: SRG | SerialisedGraph) -> dict[str, Any]:
    """A JSON object; ``to_json(from_json(x)) == x``."""
    plain = graph if isinstance(graph, SerialisedGraph) else to_plain(graph)
    return {"schema": SRG_SCHEMA, **_encode(plain)}


def from_json(data: Mapping[str, Any]) -> SerialisedGraph:
    """Inverse of :func:`to_json`, as plain data.

    Raises:
        DjinnError: another schema, a missing or unknown field, or a value of the wrong type.
    """
    return _read(SerialisedGraph, data, SRG_SCHEMA)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """A Plan as a JSON object."""
    return {"schema": PLAN_SCHEMA, **_encode(plan)}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """Inverse of :func:`plan_to_json`.

    Raises:
        DjinnError: another schema, a missing or unknown field, or a value of the wrong type.
    """
    return _read(Plan, data, PLAN_SCHEMA)


def _plain_node(srg: SRG, node: Node) -> SerialisedNode:
    return SerialisedNode(
        name=node.name,
        opcode=node.op,
        target=str(node.target) if node.op in ("placeholder", "get_attr") else None,
        args=tuple(_literal(argument) for argument in node.args),
        kwargs={name: _literal(node.kwargs[name]) for name in sorted(node.kwargs)},
        record=srg.record(node),
    )


def _literal(value: Any) -> Any:
    """An argument as a JSON value."""
    if isinstance(value, Node):
        return {"ref": value.name}
    if isinstance(value, (list, tuple)):
        return [_literal(item) for item in value]
    if isinstance(value, slice):
        return {"slice": [_literal(item) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, Mapping):
        return {"map": [[str(key), _literal(item)] for key, item in value.items()]}
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return {"sym": str(value.node.expr)}
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return {_literal_kind(value): literal_text(value)}


def _literal_kind(value: object) -> str:
    kinds: dict[type, str] = {
        float: "float",
        complex: "complex",
        torch.dtype: "dtype",
        torch.device: "device",
        torch.layout: "layout",
        torch.memory_format: "memory_format",
    }
    return kinds.get(type(value), "other")


def _encode(value: Any) -> Any:
    """A dataclass as a JSON object with all its fields; tuples as lists, enums as their values."""
    if dataclasses.is_dataclass(value):
        return {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    return value


def _read(cls: type[_T], data: Mapping[str, Any], schema: str) -> _T:
    found = data.get("schema") if isinstance(data, Mapping) else None
    if found != schema:
        raise DjinnError(f"cannot read schema {found!r}: this version of djinn-fx reads {schema!r} only")
    fields = {name: value for name, value in data.items() if name != "schema"}
    return cast(_T, _decode(cls, fields, cls.__name__))


def _decode(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the type a field is declared with."""
    if kind is Any:
        return value
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(typing.get_args(kind), value, where)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(cast(type, kind), value, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value not in {member.value for member in kind}:
            raise DjinnError(f"{where}: {value!r} is no {kind.__name__}")
        return kind(value)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), value, where)
    if origin is not None and issubclass(origin, Mapping):
        return {str(key): item for key, item in _expect(dict, value, where).items()}
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, where)


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    real = [kind for kind in kinds if kind is not type(None)]
    exact = [kind for kind in real if type(value) is kind]
    return _decode(exact[0] if exact else real[0], value, where)


def _decode_fields(cls: type, value: Any, where: str) -> Any:
    data = _expect(dict, value, where)
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    wrong = [f"missing {name!r}" for name in names if name not in data]
    wrong += [f"unknown {name!r}" for name in data if name not in names]
    if wrong:
        raise DjinnError(f"{where}: {', '.join(wrong)}")
    return cls(**{name: _decode(hints[name], data[name], f"{where}.{name}") for name in names})


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = _expect(list, value, where)
    each = kinds[:1] * len(items) if kinds[-1] is Ellipsis else kinds
    if len(each) != len(items):
        raise DjinnError(f"{where}: {len(items)} items where {len(each)} belong")
    return tuple(
        _decode(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(zip(each, items, strict=True))
    )


def _expect(kind: type, value: Any, where: str) -> Any:
    """The value, if it is of exactly this type (a bool is no int)."""
    if type(value) is not kind:
        raise DjinnError(f"{where}: expected {kind.__name__}, found {type(value).__name__} {value!r:.60}")
    return value
