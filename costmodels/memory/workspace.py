"""Memory that an op takes beside its results while it runs: ``data/workspace.yaml`` and :mod:`kernels`, for the CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.costmodels.memory.kernels import KERNELS, contiguous
from djinn_fx.costmodels.work.call import Call
from djinn_fx.costmodels.work.sizes import Sizes, item_bytes, worked_out
from djinn_fx.costmodels.work.work_of import sizes_of
from djinn_fx.errors import SettingsError
from djinn_fx.files.yaml_bounds import read_text
from djinn_fx.hardware.yaml_places import read_entries
from djinn_fx.srg.form.twins import Twins
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.record import OpRecord, TensorMeta

SCHEMA = "djinn_fx.workspace/1"
FILE = Path(__file__).parent.parent / "data" / "workspace.yaml"

#: Ops whose boolean argument only chooses: it is not turned into another type.
_CHOOSING = ("where", "masked_fill", "native_dropout_backward", "masked_scatter")
#: Bytes of a Python number as a tensor.
_NUMBER = 8


@functools.cache
def formulas(path: Path = FILE) -> Mapping[str, str]:
    """The formula of each op that has one.

    Raises:
        SettingsError: the file is not of this form; with line and column.
    """
    root = read_entries(read_text(path, "YAML"), path.name)
    table = root.mapping("workspaces", ("schema", "rows")) if root is not None else {}
    if list(table) != ["schema", "rows"] or table["schema"].value != SCHEMA:
        raise SettingsError(f"{path.name}: expected schema {SCHEMA!r} and rows")
    found: dict[str, str] = {}
    for row in table["rows"].items("rows"):
        fields = row.mapping("a row", ("bytes", "ops"))
        if set(fields) != {"bytes", "ops"}:
            raise row.error("a row needs 'bytes' and 'ops'")
        for name in fields["ops"].text("ops").split():
            if name in found:
                raise row.error(f"{name!r} is here twice")
            found[name] = str(fields["bytes"].value)
    return found


class Workspaces:
    """What the ops of one graph take beside their results.

    Args:
        sizes: the graph's tensors.
        threads: of torch's kernels.
    """

    def __init__(self, sizes: Sizes, threads: int) -> None:
        self._sizes, self._threads = sizes, threads
        self._twins = sizes.srg.fact(Twins).ops
        self._known: dict[object, int] = {}

    def of(self, node: Node) -> int:
        """Bytes; 0 for an op of which nothing is known, and on devices other than the CPU."""
        twin = self._twins[node]
        found = self._known.get(twin)
        if found is None:
            name = _name(node, self._sizes.srg.record(node))
            kernel = KERNELS.get(name)
            if kernel is not None:  # which also sees who made what the op is given
                return kernel(self._call(node), self._threads)
            found = self._known[twin] = self._by_formula(node, name) if name else 0
        return found

    def _by_formula(self, node: Node, name: str) -> int:
        formula = formulas().get(name)
        if formula is None and torch.Tag.pointwise not in node.target.tags:  # type: ignore[union-attr]
            return 0
        call = self._call(node)
        if formula is None and _all_of_one_type(call):
            return 0
        key = (name, _number(call), _look(call.outputs), _look(call.inputs))
        if key not in self._known:
            found = _cast(call, name) if formula is None else worked_out(formula, _Values(call, name, self._threads))
            self._known[key] = int(found)
        return self._known[key]

    def _call(self, node: Node) -> Call:
        record = self._sizes.srg.record(node)
        return Call(self._sizes, node, record, record.op)


def _name(node: Node, record: OpRecord) -> str:
    """What one of torch's own operators on the CPU is called, in place or not; empty for any other."""
    target = node.target
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        return ""
    if not record.outputs or record.outputs[0].device != "cpu":
        return ""
    name = target._schema.name.removeprefix("aten::")
    return name[:-1] if name.endswith("_") and record.mutates else name


def workspaces(srg: SRG, threads: int) -> Workspaces:
    """Of a graph at the example's sizes; a fact of it."""
    return Workspaces(sizes_of(srg), threads)


def _all_of_one_type(call: Call) -> bool:
    """Whether nothing has to be turned into the type of the result."""
    dtype = call.outputs[0].dtype
    return dtype != "bool" and all(meta.dtype == dtype for meta in call.inputs)


def _look(metas: Iterable[TensorMeta]) -> tuple[object, ...]:
    """What a formula can see of tensors."""
    return tuple([(one.dtype, one.shape, one.strides, one.nbytes) for one in metas])


class _Values(dict[str, Any]):
    """The values that a formula may name, each worked out when it is asked for."""

    def __init__(self, call: Call, name: str, threads: int) -> None:
        super().__init__(threads=threads)
        self._call, self._name = call, name

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> int:
        result = self._call.outputs[0]
        plain = {"elements": lambda: _elements(result), "item": lambda: item_bytes(result.dtype)}
        plain |= {"row": lambda: int((1, *result.shape)[-1]), "batch": lambda: int((*result.shape, 1)[0])}
        plain |= {"cast": lambda: _cast(self._call, self._name), "number": lambda: _number(self._call)}
        if key in plain:
            return plain[key]()
        word, place = key.rstrip("0123456789"), int(key[len(key.rstrip("0123456789")) :] or -1)
        metas = self._call.outputs if word == "out" else self._call.inputs
        if word not in ("in", "out", "copy") or place < 0:
            raise ValueError(f"{key!r} has no meaning in a workspace's formula")
        if place >= len(metas):
            return 0
        return 0 if word == "copy" and contiguous(metas[place]) else metas[place].nbytes


def _elements(meta: TensorMeta) -> int:
    return int(math.prod(meta.shape))


def _cast(call: Call, name: str) -> int:
    """Bytes of the arguments that a pointwise op or a sum turns into the type it computes in."""
    inputs = [meta for meta in call.inputs if meta.shape]
    if name in _CHOOSING:
        inputs = [meta for meta in inputs if meta.dtype != "bool"]
    result = call.outputs[0].dtype
    common = functools.reduce(torch.promote_types, (getattr(torch, meta.dtype) for meta in inputs), torch.bool)
    if result != "bool" or name in ("any", "all"):
        common = getattr(torch, result)
    return sum(_elements(meta) * common.itemsize for meta in inputs if getattr(torch, meta.dtype) != common)


def _number(call: Call) -> int:
    """Bytes of a plain number that takes the place of a tensor: itself, and itself in the other argument's type."""
    if not any(isinstance(one, (int, float)) for one in call.node.args[:2]):
        return 0
    kind = call.inputs[0].dtype if call.inputs else "float64"
    return _NUMBER + (0 if kind in ("float64", "int64", "complex128") else item_bytes(kind))
