"""A region's graph as one straight Python function, with as little between its ops as Python allows.

Torch's own bindings are 1 to 20 microseconds faster a call than the operators of ``torch.ops`` that they lead to, so
the ops that layers are made of are written as those. Values are forgotten after their last use.
"""

from __future__ import annotations

import builtins
import functools
import math
import operator
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import Graph, Node

from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.graph import OVER, product_fields
from djinn_fx.srg.graph import fake_value

aten = torch.ops.aten

#: How ops are written when they have exactly so many positional arguments and none by name.
_WRITTEN: dict[Any, str] = {
    aten.view.default: "{0}.view({1})",
    aten._unsafe_view.default: "{0}.view({1})",
    aten.t.default: "{0}.t()",
    aten.transpose.int: "{0}.transpose({1}, {2})",
    aten.permute.default: "{0}.permute({1})",
    aten.unsqueeze.default: "{0}.unsqueeze({1})",
    aten.expand.default: "{0}.expand({1})",
    aten.select.int: "{0}.select({1}, {2})",
    aten.clone.default: "{0}.clone()",
    aten.add.Tensor: "add({0}, {1})",
    aten.sub.Tensor: "sub({0}, {1})",
    aten.mul.Tensor: "mul({0}, {1})",
    aten.div.Tensor: "div({0}, {1})",
    aten.mm.default: "mm({0}, {1})",
    aten.bmm.default: "bmm({0}, {1})",
    aten.addmm.default: "addmm({0}, {1}, {2})",
    aten.relu.default: "relu({0})",
    aten.neg.default: "neg({0})",
    aten.tanh.default: "tanh({0})",
    aten.sigmoid.default: "sigmoid({0})",
    aten.rsqrt.default: "rsqrt({0})",
    aten.pow.Tensor_Scalar: "power({0}, {1})",
    aten.silu.default: "silu({0})",
    aten.gelu.default: "gelu({0})",
    aten.cat.default: "cat({0}, {1})",
    aten.sym_size.int: "{0}.size({1})",
    operator.getitem: "{0}[{1}]",
}
_ARGUMENTS = {op: text.count("{") for op, text in _WRITTEN.items()}
#: Ops whose binding in torch takes the same arguments, by name or not.
_BOUND: dict[Any, str] = {
    aten.native_layer_norm.default: "native_layer_norm",
    aten._scaled_dot_product_flash_attention_for_cpu.default: "_scaled_dot_product_flash_attention_for_cpu",
    aten._softmax.default: "_softmax",
    aten.mean.dim: "mean",
    aten.convolution.default: "convolution",
}


def _names() -> dict[str, Any]:
    """What generated code may call by name."""
    plain = {name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "mm", "bmm", "addmm", "relu", "neg")}
    plain |= {name: getattr(torch, name) for name in ("tanh", "sigmoid", "rsqrt", "cat", "relu_", "conv2d")}
    plain |= {name: getattr(torch._C._nn, name) for name in ("silu", "silu_", "gelu", "gelu_", "linear")}
    return {**plain, "power": torch.pow, "__builtins__": builtins}


class Writer:
    """Writes the function.

    Args:
        graph: see :func:`packed_graph.rewritten`.
        known: values of nodes that are there before the first call; the function holds them.
    """

    def __init__(self, graph: Graph, known: Mapping[Node, Any]) -> None:
        self._graph = graph
        self._globals: dict[str, Any] = _names()
        self._objects: dict[int, str] = {}
        self._known = known
        self._text: dict[Node, str] = {}
        self._lines: list[str] = []
        #: Writes the expression of a product; set by who chose how each is done.
        self.special: Callable[[Node], str | None] = lambda node: None

    def function(self) -> Callable[[Sequence[Any]], list[Any]]:
        """The region as a function of its arguments; it leaves them as they are."""
        needed = self._needed()
        last: dict[Node, Node] = {}
        for node in self._graph.nodes:
            if node in needed:
                for source in self.sources(node):
                    last[source] = node
        spent: dict[Node, list[Node]] = {}
        for source, reader in last.items():
            if source not in self._known and reader.op != "output":
                spent.setdefault(reader, []).append(source)
        place = -1
        for node in self._graph.nodes:
            place += node.op == "placeholder"
            if node not in needed or node in self._known:
                continue
            if node.op == "output":
                self._lines.append(f"return [{', '.join(self.literal(one) for one in cast('Any', node.args[0]))}]")
                break
            name = f"v{len(self._text)}"
            written = f"args[{place}]" if node.op == "placeholder" else self._expression(node)
            self._text[node] = name
            self._lines.append(f"{name} = {written}")
            gone = [self._text[one] for one in spent.get(node, ())] + ([name] if node not in last else [])
            if gone:
                self._lines.append(f"del {', '.join(gone)}")
        text = "def run(args):\n" + "".join(f"    {line}\n" for line in self._lines)
        code = _compiled(text)
        return types.FunctionType(code, self._globals, "run")

    def sources(self, node: Node) -> list[Node]:
        """The values that what is written for a node reads."""
        reads = getattr(self.special, "sources", None)
        found: list[Node] | None = reads(node) if reads is not None else None
        return list(node.all_input_nodes) if found is None else found

    def _needed(self) -> set[Node]:
        """What a result depends on, and what writes; not what only a known value was made of."""
        wanted = [node for node in self._graph.nodes if node.op == "output" or node.is_impure()]
        needed: set[Node] = set()
        while wanted:
            node = wanted.pop()
            if node in needed:
                continue
            needed.add(node)
            if node not in self._known:
                wanted.extend(self.sources(node))
        return {node for node in needed if node.op != "placeholder" or node not in self._known}

    # -- values -----------------------------------------------------------------------------------------------------

    def object(self, value: Any) -> str:
        """The name of something that the function holds."""
        name = self._objects.get(id(value))
        if name is None:
            name = self._objects[id(value)] = f"o{len(self._objects)}"
            self._globals[name] = value
        return name

    def literal(self, value: Any) -> str:
        """An argument as source text."""
        if isinstance(value, Node):
            return self._text[value] if value in self._text else self.object(self._known[value])
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self.literal(one) for one in value)}]"
        if value is None or isinstance(value, (bool, int, str)):
            return repr(value)
        if isinstance(value, float) and math.isfinite(value):
            return repr(value)
        return self.object(value)

    # -- ops --------------------------------------------------------------------------------------------------------

    def _expression(self, node: Node) -> str:
        special = self.special(node)
        if special is not None:
            return special
        if node.meta.get("over"):
            rest = [self.literal(one) for one in node.args[1:]]
            rest += [f"{name}={self.literal(value)}" for name, value in node.kwargs.items()]
            return f"{self.literal(node.args[0])}.{OVER[node.target]}({', '.join(rest)})"
        first = node.args[0] if node.args else None
        if not node.kwargs and _ARGUMENTS.get(node.target) == len(node.args) and self._may_be_written(first):
            return _WRITTEN[node.target].format(*(self.literal(one) for one in node.args))
        if node.target is aten.slice.Tensor and isinstance(first, Node):
            return self._slice(node)
        return self.call(node.target, node.args, node.kwargs)

    @staticmethod
    def _may_be_written(first: Any) -> bool:
        return isinstance(first, Node) or (
            isinstance(first, (list, tuple)) and all(isinstance(one, Node) for one in first)
        )

    def _slice(self, node: Node) -> str:
        """``x[:, a:b]``: indexing means the same as the op, and is faster."""
        args: tuple[Any, ...] = tuple(node.args)
        x, dim, start, end, step = (*args, *cast("tuple[Any, ...]", (0, None, None, 1))[len(args) - 1 :])
        if node.kwargs or not isinstance(dim, int):
            return self.call(node.target, node.args, node.kwargs)
        number = dim % fake_value(x).dim()
        parts = [self.literal(start), self.literal(end), *([self.literal(step)] if step != 1 else [])]
        return f"{self.literal(x)}[{':, ' * number}{':'.join(parts)}]"

    def call(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """A call of any operator or function."""
        name = _BOUND.get(target)
        called = getattr(torch, name) if name is not None else packed_ops.plain_callable(target)
        parts = [self.literal(one) for one in args]
        parts += [f"{key}={self.literal(value)}" for key, value in kwargs.items()]
        return f"{self.object(called)}({', '.join(parts)})"


@functools.lru_cache(maxsize=256)
def _compiled(source: str) -> types.CodeType:
    module = compile(source, "<packed region>", "exec")
    return next(one for one in module.co_consts if isinstance(one, types.CodeType))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one product is done.

    Attributes:
        how: ``"aten"``, ``"mkl"`` or ``"onednn"``.
        rows: how many rows of x it is packed for.
        exact: whether every call has that many.
        weight: [n, k], for ``mkl``; or packed for ``onednn``.
        packed: the packed weight.
        bytes: of the copy.
    """

    how: str
    rows: int = 0
    exact: bool = True
    weight: torch.Tensor | None = None
    packed: Any = None
    bytes: int = 0

    @property
    def stands_alone(self) -> bool:
        """Whether the graph's own weight is not read any more."""
        return self.how == "mkl" or (self.how == "onednn" and self.exact)


class Products:
    """Writes products as they were chosen to be done. To be set as ``Writer.special``."""

    def __init__(self, writer: Writer, choices: Mapping[Node, Choice]) -> None:
        # The writer holds this one: a circle would keep packed weights until Python looks for garbage.
        self._writer, self._choices = weakref.proxy(writer), choices

    def sources(self, node: Node) -> list[Node] | None:
        """What is read of a product's arguments: a packed weight is none of them. None for other ops."""
        choice = self._choices.get(node)
        if choice is None:
            return None
        right: Any = node.args[1]
        if node.target is packed_ops.convolution:
            return [one for one in node.all_input_nodes if one is not right or choice.how == "aten"]
        read = [one for one in node.all_input_nodes if one is not right]
        if choice.how == "aten" or (choice.how == "onednn" and not choice.exact):
            read.append(_untransposed(right) or right)
        return read

    def __call__(self, node: Node) -> str | None:
        if node.target is packed_ops.convolution:
            return self._convolution(node)
        if node.target is not packed_ops.product:
            return None
        x, right, bias, after, other = product_fields(node)
        write, choice = self._writer, self._choices[node]
        given, added = write.literal(x), write.literal(bias)
        if choice.how == "onednn":
            fused = self._onednn(choice, given, added, after, other)
            if choice.exact:
                return fused
            k = fake_value(x).shape[-1]
            rows = choice.rows * int(k)
            return f"{fused} if {given}.numel() == {rows} else {self._plain(given, right, added, after, other)}"
        if choice.how == "mkl":
            called, packed, weight = map(write.object, (packed_ops.run_mkl_op(), choice.packed, choice.weight))
            result = f"{called}({given}, {packed}, {weight}, {added}, {choice.rows})"
            return self._then(result, after, other)
        return self._plain(given, right, added, after, other)

    def _convolution(self, node: Node) -> str:
        given_args: tuple[Any, ...] = tuple(node.args)
        x, weight, bias, stride, padding, dilation, groups, after, other = (*given_args, "none", None)[:9]
        write, choice = self._writer, self._choices[node]
        steps = [write.literal(one) for one in (stride, padding, dilation, groups)]
        given, added = write.literal(x), write.literal(bias)
        if choice.how == "onednn":
            call, rest = packed_ops.fused_convolution(str(after))
            inputs = [given] if other is None else [given, write.literal(other)]
            read = [*inputs, write.object(choice.packed), added, steps[1], steps[0], *steps[2:]]
            return f"{write.object(call)}({', '.join([*read, *map(write.literal, rest)])})"
        result = f"conv2d({given}, {write.literal(weight)}, {added}, {', '.join(steps)})"
        if after == "add_relu":
            return f"relu_({packed_ops.IN_PLACE['add'].format(result, write.literal(other))})"
        return self._then(result, str(after), other)

    def _onednn(self, choice: Choice, x: str, bias: str, after: str, other: Any) -> str:
        write = self._writer
        packed = write.object(choice.packed)
        if after in packed_ops.BINARY:
            called = write.object(packed_ops.run_onednn_binary_op())
            return f"{called}({x}, {write.literal(other)}, {packed}, {bias}, {after!r})"
        _, name, algorithm = packed_ops.UNARY.get(after, (None, "none", ""))
        called = write.object(packed_ops.run_onednn_op())
        return f"{called}({x}, {packed}, {bias}, {name!r}, [], {algorithm!r})"

    def _plain(self, x: str, right: Node, bias: str, after: str, other: Any) -> str:
        plain = _untransposed(right)
        weight = self._writer.literal(plain) if plain is not None else f"{self._writer.literal(right)}.t()"
        return self._then(f"linear({x}, {weight}, {bias})", after, other)

    def _then(self, result: str, after: str, other: Any) -> str:
        if after == "none":
            return result
        return packed_ops.IN_PLACE[after].format(result, self._writer.literal(other))


def _untransposed(right: Node) -> Node | None:
    """``w`` of ``w.t()``."""
    return right.args[0] if right.target is aten.t.default else None  # type: ignore[return-value]


__all__ = ["Choice", "Products", "Writer"]
