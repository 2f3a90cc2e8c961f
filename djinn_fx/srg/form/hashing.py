"""The structural hash: equal for regions that one compiled artefact can serve, different for all others.

A region's *canonical form* is a JSON value that holds everything its behaviour depends on besides the values of
its inputs, and nothing else: each op's qualified target, each edge and its position, each literal, dtypes,
strides, shapes with symbols renamed by first use, what is known of each symbol, which inputs share memory,
the order of inputs and outputs, and the bodies of higher-order ops. Names and parameter values are not in it; of
device indices only which are the same and which are not. The hash is the SHA-256 of that form.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch._library.triton import get_triton_kernels_for_op
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import GraphModule, Node

from djinn_fx.errors import LoweringError
from djinn_fx.srg.graph import META_KEY, attribute, fake_value
from djinn_fx.srg.lower import lower, target_name
from djinn_fx.srg.record import OpRecord, Size, TensorMeta

#: Raised with every change of the canonical form; part of every engine key.
CANONICAL_SCHEMA = 2

_SYMBOL = re.compile(r"\b(?:s|u|zf|zuf)\d+\b")
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


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
    return Canonicaliser(nodes, inputs, outputs).form()


def structural_hash(form: Any) -> str:
    """SHA-256 of a canonical form, in hex."""
    return digest(as_text(form))


def as_text(form: Any) -> str:
    """A form, or a part of one, as the text that is hashed."""
    return json.dumps(form, separators=(",", ":"), sort_keys=True, ensure_ascii=True)


def digest(text: str) -> str:
    """SHA-256 of a form's text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Scope:
    """What a region and the bodies of its higher-order ops name alike: symbols and device indices, by first use."""

    def __init__(self) -> None:
        self._symbols: dict[str, str] = {}
        self._devices: dict[tuple[str, int], int] = {}
        self._expressions: dict[str, str] = {}
        #: For each symbol its kind and bounds, in order of first use.
        self.facts: list[list[Any]] = []

    def device(self, device: torch.device) -> str:
        """The device's type, and a number for its index: other devices of the type get other numbers."""
        if device.index is None or device.type == "cpu":
            return device.type
        others = sum(1 for kind, _ in self._devices if kind == device.type)
        return f"{device.type}#{self._devices.setdefault((device.type, device.index), others)}"

    def knows(self, size: Size) -> bool:
        """Whether a size is a number, or an expression renamed before."""
        return not isinstance(size, str) or size in self._expressions

    def expression(self, text: str, value: Any) -> str:
        """A symbolic expression with its symbols renamed; ``value`` is what it is the text of."""
        if text not in self._expressions:
            self._expressions[text] = self._renamed(text, value)
        return self._expressions[text]

    def _renamed(self, text: str, value: Any) -> str:
        names = {name: self._symbol(name, value) for name in _SYMBOL.findall(text)}
        expr = value.node.expr if isinstance(value, _SYMBOLIC) else None
        if len(names) < 2 or expr is None:
            return _SYMBOL.sub(lambda match: names[match[0]], text)
        # Sympy sorts the terms of its text by the symbols' names, so it has to write them anew.
        symbols = [symbol for symbol in expr.free_symbols if str(symbol) in names]
        return str(expr.xreplace({old: type(old)(names[str(old)], **old.assumptions0) for old in symbols}))

    def _symbol(self, name: str, value: Any) -> str:
        if name not in self._symbols:
            self._symbols[name] = f"k{len(self._symbols)}"
            self.facts.append([name.rstrip("0123456789"), *_symbol_range(name, value)])
        return self._symbols[name]


class Canonicaliser:
    """Writes the form of a region, op by op; what it is given is as for :func:`canonical_form`."""

    def __init__(
        self, nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node], scope: Scope | None = None
    ) -> None:
        self._nodes, self._inputs, self._outputs = nodes, inputs, outputs
        self._number: dict[Node, int] = {}
        self._scope = scope or Scope()
        self._storages: dict[int, int] = {}

    def form(self) -> dict[str, Any]:
        """The whole of it."""
        inputs, number = [], self._number
        for node in self._inputs:
            number[node] = len(number)
            inputs.append([self.value(node), self._aliases(node)])
        ops = []
        for node in self._nodes:
            call = self.call(node)
            number[node] = len(number)
            ops.append([*call, self.value(node)])
        outputs = [number[node] for node in self._outputs]
        return {"inputs": inputs, "ops": ops, "outputs": outputs, "symbols": self._scope.facts}

    def call(self, node: Node) -> list[Any]:
        """What an op calls, and with what."""
        args = ["list", *[self._literal(item, node) for item in node.args]]
        return [self._target(node), args, self._literal(node.kwargs, node) if node.kwargs else ["dict"]]

    def _target(self, node: Node) -> str:
        if node.op != "call_function":
            raise NoCanonicalForm(f"{node.name!r} is a {node.op}")
        if isinstance(node.target, OpOverload) and node.target.namespace in ("aten", "prims"):
            return _torch_name(node.target)
        name = target_name(node.target)
        if " at 0x" in name or "<locals>" in name or "<lambda>" in name:
            raise NoCanonicalForm(f"{node.name!r} calls {name}, which has no stable name")
        if _holds_triton_kernel(node.target):
            raise NoCanonicalForm(f"{node.name!r} calls {name}, whose Triton kernel is not in the graph")
        return name

    def _aliases(self, node: Node) -> list[int]:
        """For an input: the number of each of its storages, by first use, so that shared memory shows."""
        metas = _record(node).outputs
        return [self._storages.setdefault(meta.storage, len(self._storages)) for meta in metas]

    def value(self, node: Node) -> Any:
        """What is known of a value."""
        value = fake_value(node)
        if value is None and node.op == "get_attr":
            value = attribute(node.graph.owning_module, node.target)
        return self._described(value, iter(_record(node).outputs))

    def _described(self, value: Any, metas: Iterator[TensorMeta]) -> Any:
        """A value; ``metas`` holds those of its tensors, in order."""
        if isinstance(value, torch.Tensor):
            return self._tensor(next(metas), value)
        if isinstance(value, _SYMBOLIC):
            return [type(value).__name__, self._scope.expression(str(value.node.expr), value)]
        if isinstance(value, (tuple, list)):
            return ["values", *(self._described(item, metas) for item in value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return [type(value).__name__, repr(value)]
        return [type(value).__name__]

    def _tensor(self, meta: TensorMeta, tensor: torch.Tensor) -> list[Any]:
        parts: list[list[Size]] = [list(meta.shape), list(meta.strides), [meta.storage_offset]]
        if meta.is_symbolic:
            # Asking a tensor for its sizes takes long, and nearly all of them have been seen.
            seen = all(self._scope.knows(size) for part in parts for size in part)
            values = parts if seen else _sizes(tensor)
            parts = [
                [self._size(*pair) for pair in zip(*both, strict=True)] for both in zip(parts, values, strict=True)
            ]
        # FakeTensor is what every traced value is; any other subclass changes what an op means.
        kind = type(tensor).__name__
        flags = [tensor.is_conj(), tensor.is_neg()] if meta.layout == "strided" else []
        form: list[Any] = [meta.dtype, *parts, self._scope.device(tensor.device)]
        if meta.layout != "strided" or any(flags) or kind not in ("FakeTensor", "Tensor", "Parameter"):
            form.append([meta.layout, flags, kind])
        return form

    def _size(self, size: Size, value: Any) -> Size:
        return self._scope.expression(size, value) if isinstance(size, str) else size

    def _literal(self, value: Any, node: Node) -> Any:
        if isinstance(value, Node):
            number = self._number.get(value)
            return self.edge(value, node) if number is None else ["%", number]
        if value is None or value.__class__ is int or isinstance(value, str):
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
            return ["device", self._scope.device(value)]
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
        if isinstance(value, _SYMBOLIC):
            return ["sym", self._scope.expression(str(value.node.expr), value)]
        if isinstance(value, GraphModule):
            return ["graph", _body_form(value, self._scope)]
        raise NoCanonicalForm(f"{node.name!r} has an argument of type {type(value).__name__}")

    def edge(self, source: Node, user: Node) -> Any:
        """An argument that is no value of the region's: the body of a higher-order op."""
        if source.op == "get_attr":
            body = attribute(source.graph.owning_module, source.target)
            if isinstance(body, GraphModule):
                return ["graph", _body_form(body, self._scope)]
        raise NoCanonicalForm(f"{user.name!r} reads {source.name!r}, which is neither inside nor an input")


def _body_form(gm: GraphModule, scope: Scope) -> dict[str, Any]:
    if any(META_KEY not in node.meta for node in gm.graph.nodes):
        try:
            lower(gm)
        except LoweringError as error:
            raise NoCanonicalForm(f"the body of a higher-order op: {error}") from error
    placeholders = [node for node in gm.graph.nodes if node.op == "placeholder"]
    constants = [
        n
        for n in gm.graph.nodes
        if n.op == "get_attr" and not isinstance(attribute(n.graph.owning_module, n.target), GraphModule)
    ]
    if constants:
        raise NoCanonicalForm(f"the body of a higher-order op holds the constant {constants[0].name!r}")
    ops = [node for node in gm.graph.nodes if node.op.startswith("call_")]
    output = next(node for node in gm.graph.nodes if node.op == "output")
    results = output.args[0] if isinstance(output.args[0], (tuple, list)) else (output.args[0],)
    canonicaliser = Canonicaliser(ops, placeholders, (), scope)
    form = canonicaliser.form()
    form["outputs"] = canonicaliser._literal(list(results), output)
    return form


@functools.cache
def _torch_name(target: OpOverload) -> str:
    """The name of one of torch's own operators, of which there are a few thousand."""
    return target_name(target)


def _record(node: Node) -> OpRecord:
    record: OpRecord = node.meta[META_KEY]
    return record


def _holds_triton_kernel(target: Any) -> bool:
    """Whether a call runs a Triton kernel that the graph names only by its number, or not at all."""
    if isinstance(target, OpOverload):
        return target.namespace not in ("aten", "prims") and bool(get_triton_kernels_for_op(target._name))
    return isinstance(target, HigherOrderOperator) and target.name().startswith("triton_kernel_wrapper")


def _sizes(tensor: torch.Tensor) -> tuple[Sequence[Any], ...]:
    if tensor.layout is not torch.strided:
        return tensor.shape, (), (0,)
    return tensor.shape, tensor.stride(), (tensor.storage_offset(),)


def _symbol_range(name: str, value: Any) -> tuple[str, str]:
    """The bounds torch knows for a symbol; the compiler may rely on them, so they belong to the form."""
    if isinstance(value, _SYMBOLIC):
        for symbol in getattr(value.node.expr, "free_symbols", ()):
            bounds = value.node.shape_env.var_to_range.get(symbol)
            if str(symbol) == name and bounds is not None:
                return str(bounds.lower), str(bounds.upper)
    return "", ""
