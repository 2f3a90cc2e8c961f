"""The structural hash: equal for regions that one compiled artefact can serve, different for all others.

A region's *canonical form* is a JSON value that holds everything its behaviour depends on besides the values of
its inputs, and nothing else: each op's qualified target, each edge and its position, each literal, dtypes,
strides, shapes with symbols renamed by first use, what is known of each symbol, which inputs share memory,
the order of inputs and outputs, and the bodies of higher-order ops. Names, parameter values and device indices
are not in it. The hash is the SHA-256 of that form.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from djinn_fx.srg.graph import META_KEY, fake_value, tensors_of
from djinn_fx.srg.lower import lower, target_name
from djinn_fx.srg.record import OpRecord, Size, TensorMeta

#: Raised with every change of the canonical form; part of every engine key.
CANONICAL_SCHEMA = 1

_SYMBOL = re.compile(r"\b(?:s|u|zf|zuf)\d+\b")


class NoCanonicalForm(Exception):
    """The region holds something whose meaning cannot be written down; the message names the node."""


def canonical_form(nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node]) -> dict[str, Any]:
    """The canonical form of the region made of ``nodes``.

    Args:
        nodes: the ops, in an order in which they can run.
        inputs: values read from outside, in call order.
        outputs: values given back, in order.

    Raises:
        NoCanonicalForm: a target or literal without a stable text.
    """
    return _Canonicaliser(nodes, inputs, outputs).form()


def structural_hash(form: Any) -> str:
    """SHA-256 of a canonical form, in hex."""
    text = json.dumps(form, separators=(",", ":"), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _Canonicaliser:
    def __init__(self, nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node]) -> None:
        self._nodes, self._inputs, self._outputs = nodes, inputs, outputs
        self._number: dict[Node, int] = {}
        self._symbols: dict[str, str] = {}
        self._symbol_facts: list[list[Any]] = []
        self._storages: dict[int, int] = {}

    def form(self) -> dict[str, Any]:
        inputs = []
        for node in self._inputs:
            self._number[node] = len(self._number)
            inputs.append([self._value(node), self._aliases(node)])
        ops = []
        for node in self._nodes:
            op = [self._target(node), self._literal(node.args, node), self._literal(node.kwargs, node)]
            self._number[node] = len(self._number)
            ops.append([*op, self._value(node)])
        outputs = [self._number[node] for node in self._outputs]
        return {"inputs": inputs, "ops": ops, "outputs": outputs, "symbols": self._symbol_facts}

    def _target(self, node: Node) -> str:
        if node.op != "call_function":
            raise NoCanonicalForm(f"{node.name!r} is a {node.op}")
        name = target_name(node.target)
        if " at 0x" in name or "<locals>" in name or "<lambda>" in name:
            raise NoCanonicalForm(f"{node.name!r} calls {name}, which has no stable name")
        return name

    def _aliases(self, node: Node) -> list[int]:
        """For an input: the number of each of its storages, by first use, so that shared memory shows."""
        metas = _record(node).outputs
        return [self._storages.setdefault(meta.storage, len(self._storages)) for meta in metas]

    def _value(self, node: Node) -> Any:
        value = fake_value(node)
        if value is None and node.op == "get_attr":
            value = _attribute(node)
        metas = _record(node).outputs
        if isinstance(value, torch.Tensor):
            return self._tensor(metas[0], value)
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return [type(value).__name__, self._rename(str(value.node.expr), value)]
        if isinstance(value, (tuple, list)) and metas:
            tensors = iter(zip(metas, tensors_of(value), strict=True))
            return [self._tensor(*next(tensors)) if isinstance(v, torch.Tensor) else self._rest(v) for v in value]
        return self._rest(value)

    def _rest(self, value: Any) -> Any:
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return [type(value).__name__, self._rename(str(value.node.expr), value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return [type(value).__name__, repr(value)]
        return [type(value).__name__]

    def _tensor(self, meta: TensorMeta, tensor: torch.Tensor) -> list[Any]:
        sizes = (meta.shape, meta.strides, (meta.storage_offset,))
        if meta.is_symbolic:
            shape, strides, offset = ([self._size(s, tensor) for s in part] for part in sizes)
        else:
            shape, strides, offset = (list(part) for part in sizes)
        # FakeTensor is what every traced value is; any other subclass changes what an op means.
        kind = type(tensor).__name__
        flags = [tensor.is_conj(), tensor.is_neg()] if meta.layout == "strided" else []
        device = meta.device.split(":", 1)[0]
        form: list[Any] = [meta.dtype, shape, strides, offset, device]
        if meta.layout != "strided" or any(flags) or kind not in ("FakeTensor", "Tensor", "Parameter"):
            form.append([meta.layout, flags, kind])
        return form

    def _size(self, size: Size, tensor: torch.Tensor) -> Size:
        return self._rename(size, tensor) if isinstance(size, str) else size

    def _rename(self, expression: str, holder: Any) -> str:
        return _SYMBOL.sub(lambda match: self._symbol(match[0], holder), expression)

    def _symbol(self, name: str, holder: Any) -> str:
        if name not in self._symbols:
            self._symbols[name] = f"k{len(self._symbols)}"
            kind = name.rstrip("0123456789")
            self._symbol_facts.append([kind, *_symbol_range(name, holder)])
        return self._symbols[name]

    def _literal(self, value: Any, node: Node) -> Any:
        if isinstance(value, Node):
            return self._edge(value, node)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return ["bool", value]
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return ["float", value.hex() if math.isfinite(value) else repr(value)]
        if isinstance(value, (tuple, list)):
            return ["list", *(self._literal(item, node) for item in value)]
        if isinstance(value, dict):
            return ["dict", *([str(key), self._literal(value[key], node)] for key in sorted(value, key=str))]
        if isinstance(value, torch.device):
            return ["device", value.type]
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            return ["torch", str(value)]
        return self._rare_literal(value, node)

    def _rare_literal(self, value: Any, node: Node) -> Any:
        if isinstance(value, slice):
            return ["slice", *(self._literal(v, node) for v in (value.start, value.stop, value.step))]
        if isinstance(value, complex):
            return ["complex", repr(value)]
        if isinstance(value, OpOverload):
            return ["op", str(value)]
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return ["sym", self._rename(str(value.node.expr), value)]
        if isinstance(value, GraphModule):
            return ["graph", graph_form(value)]
        raise NoCanonicalForm(f"{node.name!r} has an argument of type {type(value).__name__}")

    def _edge(self, source: Node, user: Node) -> Any:
        if source in self._number:
            return ["%", self._number[source]]
        if source.op == "get_attr":
            body = _attribute(source)
            if isinstance(body, GraphModule):
                return ["graph", graph_form(body)]
        raise NoCanonicalForm(f"{user.name!r} reads {source.name!r}, which is neither inside nor an input")


def graph_form(gm: GraphModule) -> dict[str, Any]:
    """The canonical form of a whole graph module, such as the body of a higher-order op.

    Raises:
        NoCanonicalForm: as :func:`canonical_form`.
    """
    if any(META_KEY not in node.meta for node in gm.graph.nodes):
        lower(gm)
    placeholders = [node for node in gm.graph.nodes if node.op == "placeholder"]
    constants = [n for n in gm.graph.nodes if n.op == "get_attr" and not isinstance(_attribute(n), GraphModule)]
    if constants:
        raise NoCanonicalForm(f"the body of a higher-order op holds the constant {constants[0].name!r}")
    ops = [node for node in gm.graph.nodes if node.op.startswith("call_")]
    output = next(node for node in gm.graph.nodes if node.op == "output")
    results = output.args[0] if isinstance(output.args[0], (tuple, list)) else (output.args[0],)
    canonicaliser = _Canonicaliser(ops, placeholders, ())
    form = canonicaliser.form()
    form["outputs"] = canonicaliser._literal(list(results), output)
    return form


def _attribute(node: Node) -> Any:
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _record(node: Node) -> OpRecord:
    record: OpRecord = node.meta[META_KEY]
    return record


def _symbol_range(name: str, holder: Any) -> tuple[str, str]:
    """The bounds torch knows for a symbol; the compiler may rely on them, so they belong to the form."""
    for size in _symbolic_sizes(holder):
        for symbol in size.node.expr.free_symbols:
            if str(symbol) == name:
                bounds = size.node.shape_env.var_to_range.get(symbol)
                return (str(bounds.lower), str(bounds.upper)) if bounds is not None else ("", "")
    return "", ""


def _symbolic_sizes(holder: Any) -> list[Any]:
    if not isinstance(holder, torch.Tensor):
        return [holder]
    sizes = [*holder.shape, *holder.stride(), holder.storage_offset()]
    return [size for size in sizes if isinstance(size, torch.SymInt)]
