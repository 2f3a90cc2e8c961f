"""Which op does how much, by name: ``data/ops.yaml``, read when it is first asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from djinn_fx.costmodels.work.work import KINDS
from djinn_fx.errors import SettingsError
from djinn_fx.files.yaml_bounds import read_text
from djinn_fx.hardware.yaml_places import Entry, read_entries

SCHEMA = "djinn_fx.ops/1"
FILE = Path(__file__).parent.parent / "data" / "ops.yaml"

_TABLES = ("schema", "no_work", "no_traffic", "per_element", "sorts", "factorisations", "reductions")
_COUNTED = ("in", "out", "outs")

_T = TypeVar("_T")


def names(text: str, prefix: str = "") -> frozenset[str]:
    """Names written with spaces between them, each with a prefix."""
    return frozenset(prefix + name for name in text.split())


@dataclass(frozen=True, slots=True)
class PerElement:
    """So much for each element.

    Attributes:
        kind: of the work.
        of: ``"in"`` elements of the first tensor argument, ``"out"`` of the first output, ``"outs"`` of all outputs,
            or the position of the argument that counts.
        vector: operations.
        special: calls of exp, sqrt and the like.
    """

    kind: str
    of: str | int
    vector: int = 0
    special: int = 0


@dataclass(frozen=True, kw_only=True)
class OpTables:
    """The file's tables; what each says stands there.

    Attributes:
        no_work: whole names.
        no_traffic: whole names.
        per_element: by name without the namespace, as are those below.
        sorts: of n elements, or the k largest of them.
        factorisations: how many times m n min(m, n) operations.
        reductions: for the torch versions that do not tag them.
    """

    no_work: frozenset[str]
    no_traffic: frozenset[str]
    per_element: Mapping[str, PerElement]
    sorts: frozenset[str]
    factorisations: Mapping[str, int]
    reductions: frozenset[str]


@functools.cache
def op_tables(path: Path = FILE) -> OpTables:
    """The tables.

    Raises:
        SettingsError: the file is not of this form; with line and column.
    """
    root = read_entries(read_text(path, "YAML"), path.name)
    tables = root.mapping("tables of ops", _TABLES) if root is not None else {}
    if list(tables) != list(_TABLES) or tables["schema"].value != SCHEMA:
        raise SettingsError(f"{path.name}: expected {', '.join(_TABLES)} in this order, schema {SCHEMA!r}")
    per_element: dict[str, PerElement] = {}
    for row in tables["per_element"].items("per_element"):
        _enter(per_element, row, _per_element(row))
    factorisations: dict[str, int] = {}
    for row in tables["factorisations"].items("factorisations"):
        _enter(factorisations, row, _fields(row, ("times", "ops"))["times"].count("times"))
    return OpTables(
        no_work=_whole(tables["no_work"]),
        no_traffic=_whole(tables["no_traffic"]),
        per_element=per_element,
        sorts=_listed(tables["sorts"]),
        factorisations=factorisations,
        reductions=_listed(tables["reductions"]),
    )


def _per_element(row: Entry) -> PerElement:
    fields = _fields(row, ("kind", "of", "ops"), ("vector", "special"))
    kind, of = fields["kind"].text("kind"), fields["of"].value
    if kind not in KINDS:
        raise fields["kind"].error(f"no kind of work: {kind!r}; known: {', '.join(KINDS)}")
    if of not in _COUNTED:
        of = fields["of"].count("of")
    vector, special = (fields[name].count(name) if name in fields else 0 for name in ("vector", "special"))
    return PerElement(kind, of, vector, special)


def _fields(row: Entry, needed: tuple[str, ...], more: tuple[str, ...] = ()) -> Mapping[str, Entry]:
    fields = row.mapping("a row", (*needed, *more))
    for name in needed:
        if name not in fields:
            raise row.error(f"a row without {name!r}")
    return fields


def _enter(table: dict[str, _T], row: Entry, value: _T) -> None:
    for name in row.value["ops"].text("ops").split():
        if name in table:
            raise row.error(f"{name!r} is here twice")
        table[name] = value


def _listed(entry: Entry) -> frozenset[str]:
    listed = entry.text("a table").split()
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise entry.error(f"{', '.join(twice)}: here twice")
    return frozenset(listed)


def _whole(entry: Entry) -> frozenset[str]:
    return frozenset(name if "." in name else f"aten.{name}" for name in _listed(entry))
