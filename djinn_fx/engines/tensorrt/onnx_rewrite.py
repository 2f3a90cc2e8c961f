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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses import FakeTensor
from torch.fx import GraphModule, Node

from djinn_fx.engines.tensorrt.conversion import (
    Constant,
    Copy,
    FromInput,
    FromNetwork,
    FromSizes,
    Options,
    Output,
    SameAs,
    ViewOfInput,
)
from djinn_fx.engines.tensorrt.network import DTYPE_BYTES, Dim, Range
from djinn_fx.engines.tensorrt.onnx_attention import ATTENTION, named_arguments, one_attention
from djinn_fx.engines.tensorrt.onnx_wide import compute_wide
from djinn_fx.engines.tensorrt.sizes import Sizes, text_of
from djinn_fx.engines.tensorrt.support import Refused as SizeRefused
from djinn_fx.srg.form.rebuild import Rebuilt
from djinn_fx.srg.graph import tensors_of

aten = torch.ops.aten


#: Ops that the exporter gets wrong, with the argument that decides and when it is right: found by comparing with eager.
_WRONG: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **{
        f"aten._upsample_{how}2d_aa.{overload}": ("output_size", lambda size: False)
        for how in ("bilinear", "bicubic", "lanczos")
        for overload in ("default", "vec")
    },
    "aten.scatter_reduce.two": ("reduce", lambda reduce: reduce in ("sum", "prod", "amax", "amin")),
    "aten.native_batch_norm.default": ("training", lambda training: training is False),
    "aten._native_batch_norm_legit.default": ("training", lambda training: training is False),
    "aten._native_batch_norm_legit_functional.default": ("training", lambda training: training is False),
    "aten.avg_pool2d.default": ("divisor_override", lambda divisor: divisor is None),
    "aten.avg_pool3d.default": ("divisor_override", lambda divisor: divisor is None),
}

#: Where a node's meta says which op of the region it is.
PLACE = "djinn_place"


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
        taken: type and sizes of each input, symbols by name.
        given: type and sizes of each result; ``""`` for a size that has no short name.
        outputs: how the region's outputs are made.
        copies: what is written back.
        symbols: for each symbol the input of ``gm`` and the dimension that tells it.
        ranges: for each symbol its least, usual and greatest value.
    """

    gm: GraphModule
    inputs: tuple[int, ...]
    taken: tuple[tuple[str, tuple[Dim, ...]], ...]
    given: tuple[tuple[str, tuple[Dim, ...]], ...]
    outputs: tuple[Output, ...]
    copies: tuple[Copy, ...]
    symbols: Mapping[str, tuple[int, int]]
    ranges: Mapping[str, Range]


def prepare(rebuilt: Rebuilt, options: Options) -> Prepared:
    """Make a region ready.

    Args:
        rebuilt: the graph made from its canonical form; it is changed.
        options: how far a size may grow, and whether half precision is computed in float32.

    Raises:
        Refused: why it cannot be exported.
    """
    modes = [value.fake_mode for value in rebuilt.example_inputs if isinstance(value, FakeTensor)]
    if not modes:
        raise Refused("the region takes no tensor")
    with enable_python_dispatcher(), modes[0], torch.no_grad(), torch._C._DisableAutocast():
        try:
            return _Preparation(rebuilt.gm, options).run()
        except SizeRefused as error:
            raise Refused(str(error)) from error


class _Preparation:
    def __init__(self, gm: GraphModule, options: Options) -> None:
        self._gm, self._graph = gm, gm.graph
        self._placeholders = list(gm.graph.find_nodes(op="placeholder"))
        self._ops = [node for node in gm.graph.nodes if node.op == "call_function"]
        self._number = {node: number for number, node in enumerate(self._ops)}
        for node, number in self._number.items():
            node.meta[PLACE] = number
        self._returned: list[Node] = list(gm.graph.output_node().args[0])  # type: ignore[arg-type]
        self._storages = self._inputs_by_storage()
        self._results: list[Node] = []
        self._sizes = Sizes(options)
        self._wide = options.wide_accumulation

    def run(self) -> Prepared:
        for node in self._ops:
            self._allow(node)
        self._read_sizes_off_shapes()
        written = self._take_out_writes()
        for node in self._returned:
            if self._is_computed(node):
                self._result(node)
        copies = tuple(Copy(output=self._result(value), input=index) for index, value in written.items())
        if not self._results:
            raise Refused("the region computes no tensor")
        self._graph.output_node().args = (tuple(self._computed(node) for node in self._results),)
        for node in self._ops:
            self._attention(node)
            # The common attention's result may be laid out otherwise than the device's own, and what was a view of the
            # one is none of the other.
            if node.target in (aten.view.default, aten._unsafe_view.default):
                node.target = aten.reshape.default
        if self._wide:
            for node in list(self._graph.nodes):
                if not node._erased:
                    compute_wide(node, self._call)
        self._graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        inputs, taken = self._inputs()
        outputs = tuple(self._output(place, node) for place, node in enumerate(self._returned))
        self._graph.lint()
        self._gm.recompile()
        return Prepared(
            gm=self._gm,
            inputs=inputs,
            taken=taken,
            given=tuple(self._described(node) for node in self._results),
            outputs=outputs,
            copies=copies,
            symbols=dict(self._sizes.places),
            ranges=self._sizes.ranges(),
        )

    # -- what is not taken --------------------------------------------------------------------------------------

    def _allow(self, node: Node) -> None:
        number = self._number[node]
        target = node.target
        if isinstance(target, OpOverload):
            # Attention may drop out, and is tagged for it; one_attention looks whether it does.
            if torch.Tag.nondeterministic_seeded in target.tags and target not in ATTENTION:
                raise Refused(f"{target} draws random numbers", number)
            name, right = _WRONG.get(str(target), ("", _always))
            if not right(named_arguments(node).get(name)):
                raise Refused(f"{target} with this {name} is exported as something else", number)
            if target._schema.is_mutable and target is not aten.copy_.default:
                raise Refused(f"{target} writes into its argument", number)
        elif isinstance(target, torch._ops.HigherOrderOperator):
            raise Refused(f"{target.name()} is a higher-order op", number)
        for value in (node, *node.all_input_nodes):
            for tensor in tensors_of(value.meta.get("val")):
                # Some ops give an empty tensor in the place of one that nobody asked for.
                asked_for = bool(value.users) and isinstance(value.meta["val"], torch.Tensor)
                self._allow_tensor(tensor, number, asked_for)

    def _allow_tensor(self, tensor: torch.Tensor, number: int | None, asked_for: bool = True) -> None:
        if _name(tensor.dtype) not in DTYPE_BYTES:
            raise Refused(f"a value of {_name(tensor.dtype)}, which TensorRT has no arithmetic for", number)
        if asked_for and any(type(size) is int and size == 0 for size in tensor.shape):
            raise Refused("a tensor without elements, of which ONNX's reductions say other things than torch's", number)
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            raise Refused(f"a value with layout {tensor.layout}, conjugated or negated in place", number)

    # -- inputs -------------------------------------------------------------------------------------------------

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
            value = node.meta["val"]
            if self._is_tensor(index) or not node.users:
                continue
            if not isinstance(value, torch.SymInt):
                raise Refused(f"argument {index} is a {type(value).__name__}, which is no tensor")
            node.replace_all_uses_with(self._size_node(index, value), delete_user_cb=lambda user: user.op != "output")

    def _size_node(self, index: int, value: torch.SymInt) -> Node:
        """The size of a tensor argument that an argument repeats."""
        if value.node.expr.is_number:
            raise Refused(f"argument {index} is a size that was found to be {value.node.expr}")
        for source, node in enumerate(self._placeholders):
            for dim, size in enumerate(node.meta["val"].shape if self._is_tensor(source) else ()):
                if isinstance(size, torch.SymInt) and size.node.expr == value.node.expr:
                    with self._graph.inserting_after(self._placeholders[-1]):
                        read = self._graph.call_function(aten.sym_size.int, (node, dim))
                    read.meta["val"] = value
                    return read
        raise Refused(f"argument {index} is the size {value.node.expr}, which is no size of a tensor argument")

    def _inputs(self) -> tuple[tuple[int, ...], tuple[tuple[str, tuple[Dim, ...]], ...]]:
        """Drop the placeholders nothing reads, except those that tell a size that no other one does."""
        inputs = [index for index, node in enumerate(self._placeholders) if node.users]
        told = {size for index in inputs for size in self._symbolic(index)}
        for index in range(len(self._placeholders)):
            if index not in inputs and not self._symbolic(index) <= told:
                inputs.append(index)
                told |= self._symbolic(index)
        inputs.sort()
        taken = []
        for number, index in enumerate(inputs):
            value = self._placeholders[index].meta["val"]
            self._allow_tensor(value, None)
            taken.append((_name(value.dtype), self._sizes.declare(number, value.shape)))
        for index, node in enumerate(self._placeholders):
            if index not in inputs:
                self._graph.erase_node(node)
        return tuple(inputs), tuple(taken)

    def _symbolic(self, index: int) -> set[str]:
        """The sizes of an argument that are no numbers."""
        sizes: tuple[Any, ...] = self._placeholders[index].meta["val"].shape if self._is_tensor(index) else ()
        return {
            str(size.node.expr) for size in sizes if isinstance(size, torch.SymInt) and not size.node.expr.is_number
        }

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
        self._returned = [writes.get(node, node) for node in self._returned]
        for node, target in writes.items():
            node.replace_all_uses_with(target)
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

    def _is_computed(self, node: Node) -> bool:
        """Whether a returned value is a tensor of the region's own, no argument's memory."""
        value = node.meta["val"]
        return isinstance(value, torch.Tensor) and _storage(value) not in self._storages

    def _result(self, node: Node) -> int:
        """The place of a value among what the exported graph returns."""
        if node not in self._results:
            self._results.append(node)
        return self._results.index(node)

    def _computed(self, node: Node) -> Node:
        """A value that an op gives: an argument handed through would be no output of the network."""
        if node.op != "placeholder":
            return node
        with self._graph.inserting_before(self._graph.output_node()):
            return self._call(aten.clone.default, (node,))

    def _described(self, node: Node) -> tuple[str, tuple[Dim, ...]]:
        value = node.meta["val"]
        sizes = (text_of(self._sizes.formula(size)) for size in value.shape)
        return _name(value.dtype), tuple(
            size if type(size) is int or size in self._sizes.places else "" for size in sizes
        )

    def _output(self, place: int, node: Node) -> Output:
        earlier = self._returned.index(node)
        if earlier < place:
            return SameAs(output=earlier)
        value = node.meta["val"]
        if node in self._placeholders:
            return FromInput(input=self._placeholders.index(node))
        if isinstance(value, torch.SymInt):
            return FromSizes(value=self._sizes.formula(value))
        if value is None or isinstance(value, (bool, int, float)):
            return Constant(value=value)
        if not isinstance(value, torch.Tensor):
            raise Refused(f"an output that is a {type(value).__name__}", self._number.get(node))
        shape, strides = self._sizes.formulas(value.shape), self._sizes.formulas(value.stride())
        if self._is_computed(node):
            return FromNetwork(output=self._result(node), dtype=_name(value.dtype), shape=shape, strides=strides)
        index = self._storages[_storage(value)][0]
        own = self._placeholders[index].meta["val"]
        if value.dtype != own.dtype:
            raise Refused("an output that shows an argument's memory as another type", self._number[node])
        offset = self._sizes.formula(value.storage_offset() - own.storage_offset())
        return ViewOfInput(input=index, shape=shape, strides=strides, offset=offset)


def _always(value: Any) -> bool:
    return True


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
