"""A region made ready for ONNX export: nothing in it that the exporter drops, guesses or has no name for.

The region is rebuilt from its canonical form, so what is exported has its own fake tensors and symbols (exporting adds
facts about sizes to them, which must not become guards of the user's graph) and names that do not depend on where the
region came from. Then

* sizes given as arguments are read off a tensor's shape instead,
* an input that is overwritten becomes one output more, copied back after the run,
* outputs that are inputs, or views of them, are left to the caller,
* the device's own forms of scaled dot product attention become the one form that ONNX has an op for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses import FakeTensor
from torch.fx import GraphModule, Node
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod

from djinn_fx.engines.tensorrt.conversion import (
    Constant,
    Copy,
    Formula,
    FromInput,
    FromNetwork,
    FromSizes,
    Output,
    SameAs,
    ViewOfInput,
)
from djinn_fx.engines.tensorrt.network import DTYPE_BYTES
from djinn_fx.engines.tensorrt.onnx_attention import ATTENTION, one_attention
from djinn_fx.srg.expressions import parse_size
from djinn_fx.srg.graph import tensors_of
from djinn_fx.srg.rebuild import Rebuilt

aten = torch.ops.aten


class Refused(Exception):
    """The region cannot be given to ONNX.

    Args:
        detail: why.
        op: which op of the region it is about, by its place among them; None for none.
    """

    def __init__(self, detail: str, op: int | None = None) -> None:
        super().__init__(detail)
        self.detail, self.op = detail, op


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A region ready for export.

    Attributes:
        gm: placeholders in the order of ``inputs``; returns a tuple of distinct tensors.
        inputs: which region inputs it takes, by index.
        shapes: of these inputs, with symbols' names.
        outputs: how the region's outputs are made.
        copies: what is written back.
        symbols: for each symbol the input of ``gm`` and the dimension that tells it.
    """

    gm: GraphModule
    inputs: tuple[int, ...]
    shapes: tuple[tuple[int | str, ...], ...]
    outputs: tuple[Output, ...]
    copies: tuple[Copy, ...]
    symbols: Mapping[str, tuple[int, int]]


def prepare(form: Mapping[str, Any], rebuilt: Rebuilt) -> Prepared:
    """Make a region ready.

    Args:
        form: its canonical form.
        rebuilt: the graph made from it; it is changed.

    Raises:
        Refused: why it cannot be exported.
    """
    modes = [value.fake_mode for value in rebuilt.example_inputs if isinstance(value, FakeTensor)]
    if not modes:
        raise Refused("the region takes no tensor")
    with enable_python_dispatcher(), modes[0], torch.no_grad(), torch._C._DisableAutocast():
        return _Preparation(form, rebuilt.gm).run()


class _Preparation:
    def __init__(self, form: Mapping[str, Any], gm: GraphModule) -> None:
        self._form, self._gm, self._graph = form, gm, gm.graph
        self._placeholders = list(gm.graph.find_nodes(op="placeholder"))
        self._ops = [node for node in gm.graph.nodes if node.op == "call_function"]
        self._number = {node: number for number, node in enumerate(self._ops)}
        self._returned: list[Node] = list(gm.graph.output_node().args[0])  # type: ignore[arg-type]
        self._storages = self._inputs_by_storage()
        self._results: list[Node] = []

    def run(self) -> Prepared:
        for node in self._ops:
            self._allow(node)
        self._read_sizes_off_shapes()
        written = self._take_out_writes()
        outputs = tuple(self._output(place, node) for place, node in enumerate(self._returned))
        copies = []
        for index, value in written.items():
            copies.append(Copy(output=self._result(value), input=index))
        if not self._results:
            raise Refused("the region computes no tensor")
        self._graph.output_node().args = (tuple(self._computed(node) for node in self._results),)
        for node in self._ops:
            self._attention(node)
        self._graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        inputs, symbols = self._inputs(outputs)
        self._graph.lint()
        self._gm.recompile()
        return Prepared(
            gm=self._gm,
            inputs=inputs,
            shapes=tuple(tuple(self._form["inputs"][index][0][1]) for index in inputs),
            outputs=outputs,
            copies=tuple(copies),
            symbols=symbols,
        )

    # -- what is not taken --------------------------------------------------------------------------------------

    def _allow(self, node: Node) -> None:
        number = self._number[node]
        target = node.target
        if isinstance(target, OpOverload):
            # Attention may drop out, and is tagged for it; one_attention looks whether it does.
            if torch.Tag.nondeterministic_seeded in target.tags and target not in ATTENTION:
                raise Refused(f"{target} draws random numbers", number)
            if target._schema.is_mutable and target is not aten.copy_.default:
                raise Refused(f"{target} writes into its argument", number)
        elif isinstance(target, torch._ops.HigherOrderOperator):
            raise Refused(f"{target.name()} is a higher-order op", number)
        for value in (node, *node.all_input_nodes):
            for tensor in tensors_of(value.meta.get("val")):
                self._allow_tensor(tensor, number)

    def _allow_tensor(self, tensor: torch.Tensor, number: int) -> None:
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in DTYPE_BYTES:
            raise Refused(f"a value of {name}, which TensorRT has no arithmetic for", number)
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            raise Refused(f"a value with layout {tensor.layout}, conjugated or negated in place", number)

    # -- inputs -------------------------------------------------------------------------------------------------

    def _told(self, index: int) -> Any:
        """What the canonical form says of an input: ``[dtype, shape, strides, [offset], device]`` for a tensor."""
        return self._form["inputs"][index][0]

    def _is_tensor(self, index: int) -> bool:
        return isinstance(self._placeholders[index].meta["val"], torch.Tensor)

    def _inputs_by_storage(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for index, node in enumerate(self._placeholders):
            if self._is_tensor(index):
                found.setdefault(_storage(node.meta["val"]), []).append(index)
        return found

    def _read_sizes_off_shapes(self) -> None:
        """Replace what is no tensor among the arguments: a plan takes tensors only."""
        for index, node in enumerate(self._placeholders):
            if self._is_tensor(index):
                continue
            value = node.meta["val"]
            if isinstance(value, torch.SymInt):
                if node.users:
                    self._replace_size(index, node, value)
            elif node.users and any(user.op != "output" for user in node.users):
                raise Refused(f"argument {index} is a {type(value).__name__}, which is no tensor")

    def _replace_size(self, index: int, node: Node, value: torch.SymInt) -> None:
        text = self._told(index)[1]
        if type(text) is int or text.lstrip("-").isdigit():
            node.replace_all_uses_with(int(text), delete_user_cb=lambda user: user.op != "output")  # type: ignore[arg-type]
            return
        place = self._place_of(text)
        if place is None:
            raise Refused(f"argument {index} is the size {text}, which is no size of a tensor argument")
        source, dim = place
        with self._graph.inserting_after(self._placeholders[-1]):
            read = self._graph.call_function(aten.sym_size.int, (self._placeholders[source], dim))
        read.meta["val"] = value
        node.replace_all_uses_with(read, delete_user_cb=lambda user: user.op != "output")

    def _place_of(self, text: str) -> tuple[int, int] | None:
        """The first tensor argument, and which of its sizes, that is exactly this."""
        for index in range(len(self._placeholders)):
            if self._is_tensor(index):
                for dim, size in enumerate(self._told(index)[1]):
                    if size == text:
                        return index, dim
        return None

    def _inputs(self, outputs: Sequence[Output]) -> tuple[tuple[int, ...], dict[str, tuple[int, int]]]:
        """Drop the placeholders nothing reads, except one that tells a size that is asked for."""
        needed: dict[str, None] = {}
        for index, node in enumerate(self._placeholders):
            if node.users and self._is_tensor(index):
                for size in self._told(index)[1]:
                    _symbols_of(_formula(size, self._symbols), needed)
        for output in outputs:
            for part in ("shape", "strides", "offset", "value"):
                if not isinstance(output, Constant):
                    _symbols_of(getattr(output, part, 0), needed)
        tells: dict[str, tuple[int, int]] = {}
        for name in needed:
            users = [i for i, node in enumerate(self._placeholders) if node.users]
            others = [i for i in range(len(self._placeholders)) if i not in users]
            for index in (*users, *others):
                if self._is_tensor(index) and name in self._told(index)[1]:
                    tells[name] = (index, list(self._told(index)[1]).index(name))
                    break
            else:
                raise Refused(f"no tensor argument has the size {name}")
        kept = {index for index, _ in tells.values()}
        inputs = [i for i, node in enumerate(self._placeholders) if i in kept or node.users]
        for index, node in enumerate(self._placeholders):
            if index not in inputs:
                self._graph.erase_node(node)
        return tuple(inputs), {name: (inputs.index(index), dim) for name, (index, dim) in tells.items()}

    @property
    def _symbols(self) -> dict[str, sympy.Symbol]:
        return {f"k{number}": sympy.Symbol(f"k{number}") for number in range(len(self._form["symbols"]))}

    # -- writes -------------------------------------------------------------------------------------------------

    def _take_out_writes(self) -> dict[int, Node]:
        """Every ``copy_`` into an argument becomes the value that is copied; for each such argument the last one."""
        written: dict[int, Node] = {}
        for node in self._ops:
            if node.target is not aten.copy_.default:
                continue
            target, value = node.args[0], node.args[1]
            if not isinstance(target, Node) or not isinstance(value, Node) or target not in self._placeholders:
                raise Refused("a write into something that is no argument", self._number[node])
            index = self._placeholders.index(target)
            self._no_other_sees(node, target)
            new = self._as_written(node, target, value)
            for old in (target, node):
                for user in [user for user in old.users if user.op != "output" and self._comes_after(user, node)]:
                    first = user.args[0]
                    user.replace_input_with(old, new)
                    if user.target is aten.copy_.default:  # a further write, to the same argument
                        user.args = (target if first is node else first, *user.args[1:])
            written[index] = new
        # A region output that is the written argument is the argument: see _output.
        writes = {node: node.args[0] for node in self._ops if node.target is aten.copy_.default}
        self._returned = [writes.get(node, node) for node in self._returned]  # type: ignore[misc]
        for node, target in writes.items():
            node.replace_all_uses_with(target)  # type: ignore[arg-type]
            self._graph.erase_node(node)
        self._ops = [node for node in self._ops if node not in writes]
        return written

    def _comes_after(self, node: Node, other: Node) -> bool:
        return node in self._number and self._number[node] > self._number[other]

    def _no_other_sees(self, write: Node, target: Node) -> None:
        """Refuse a write that something else sees: another argument, or a view taken before and read after it."""
        storage = _storage(target.meta["val"])
        if len(self._storages[storage]) > 1:
            raise Refused("an argument that is written shares its memory with another one", self._number[write])
        for node in self._ops:
            if node.target is aten.copy_.default or storage not in map(_storage, tensors_of(node.meta.get("val"))):
                continue
            for user in node.users:
                if user.op != "output" and self._comes_after(user, write) and not self._comes_after(node, write):
                    raise Refused("a view of an argument is read after the argument is written", self._number[user])

    def _as_written(self, write: Node, target: Node, value: Node) -> Node:
        old, new = target.meta["val"], value.meta["val"]
        with self._graph.inserting_before(write):
            if new.dtype != old.dtype:
                value = self._call(aten._to_copy.default, (value,), {"dtype": old.dtype})
            if tuple(new.shape) != tuple(old.shape):
                if any(isinstance(size, torch.SymInt) for size in old.shape):
                    raise Refused("a write that repeats its value over sizes not known", self._number[write])
                value = self._call(aten.expand.default, (value, list(old.shape)))
        return value

    def _call(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Node:
        node = self._graph.call_function(target, args, dict(kwargs or {}))
        values = torch.fx.node.map_arg((args, dict(kwargs or {})), lambda one: one.meta["val"])
        node.meta["val"] = target(*values[0], **values[1])
        return node

    def _attention(self, node: Node) -> None:
        problem = one_attention(node, self._call)
        if problem is not None:
            raise Refused(problem, self._number[node])

    # -- outputs ------------------------------------------------------------------------------------------------

    def _output(self, place: int, node: Node) -> Output:
        earlier = self._returned.index(node)
        if earlier < place:
            return SameAs(output=earlier)
        value = node.meta["val"]
        if node in self._placeholders:
            return FromInput(input=self._placeholders.index(node))
        if isinstance(value, torch.SymInt):
            return FromSizes(value=self._formula_of_op(node)[1])
        if value is None or isinstance(value, (bool, int, float)):
            return Constant(value=value)
        if not isinstance(value, torch.Tensor):
            raise Refused(f"an output that is a {type(value).__name__}", self._number.get(node))
        dtype, shape, strides, (offset,), *_ = self._form_of_op(node)
        sizes = tuple(_formula(size, self._symbols) for size in shape)
        steps = tuple(_formula(size, self._symbols) for size in strides)
        base = self._storages.get(_storage(value))
        if base is not None:
            return self._view(node, base[0], sizes, steps, offset)
        return FromNetwork(output=self._result(node), dtype=dtype, shape=sizes, strides=steps)

    def _result(self, node: Node) -> int:
        """The place of a value among what the exported graph returns."""
        if node not in self._results:
            self._results.append(node)
        return self._results.index(node)

    def _view(
        self, node: Node, index: int, shape: tuple[Formula, ...], strides: tuple[Formula, ...], offset: Any
    ) -> Output:
        own = self._told(index)[3][0]
        if type(own) is not int or type(offset) is not int:
            raise Refused("an output that is a view of an argument, at an offset not known", self._number[node])
        if node.meta["val"].dtype != self._placeholders[index].meta["val"].dtype:
            raise Refused("an output that shows an argument's memory as another type", self._number[node])
        return ViewOfInput(input=index, shape=shape, strides=strides, offset=offset - own)

    def _computed(self, node: Node) -> Node:
        """A value that an op gives: an argument handed through would be no output of the network."""
        if node.op != "placeholder":
            return node
        with self._graph.inserting_before(self._graph.output_node()):
            return self._call(aten.clone.default, (node,))

    def _form_of_op(self, node: Node) -> Any:
        return self._form["ops"][self._number[node]][3]

    def _formula_of_op(self, node: Node) -> tuple[str, Formula]:
        kind, text = self._form_of_op(node)
        return kind, _formula(text, self._symbols)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _formula(text: Any, symbols: Mapping[str, sympy.Symbol]) -> Formula:
    """A size of a canonical form as a formula over its symbols."""
    if type(text) is int:
        return text
    try:
        return _from_sympy(parse_size(str(text), symbols))
    except ValueError as error:
        raise Refused(f"the size {str(text)[:80]}: {error}") from error


_PAIRS: dict[Any, str] = {FloorDiv: "//", Mod: "%", PythonMod: "%"}


def _from_sympy(expression: Any) -> Formula:
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        return str(expression)
    operands = [_from_sympy(one) for one in expression.args]
    if expression.func in (sympy.Add, sympy.Mul):
        return ["+" if expression.func is sympy.Add else "*", *operands]
    if expression.func in (Max, Min):
        name, (result, *rest) = ("max" if expression.func is Max else "min"), operands
        for one in rest:
            result = [name, result, one]
        return result
    if expression.func in _PAIRS:
        return [_PAIRS[expression.func], *operands]
    if expression.is_Pow and type(operands[1]) is int and operands[1] > 0:
        return ["*", *([operands[0]] * operands[1])]
    raise ValueError(f"{type(expression).__name__} of sizes")


def _symbols_of(formula: Any, found: dict[str, None]) -> None:
    """Add the symbols a formula, or a tuple of them, reads."""
    if isinstance(formula, str):
        found.setdefault(formula)
    elif isinstance(formula, tuple):
        for one in formula:
            _symbols_of(one, found)
    elif isinstance(formula, list):
        for one in formula[1:]:
            _symbols_of(one, found)

