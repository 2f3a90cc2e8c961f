"""From a canonical form back to a graph: what another process needs to compile a region it has never seen.

The rebuilt graph has fake values that are computed anew, op by op, from the inputs as they were written down. That
it is the region is not assumed but proved: its own canonical form must be the given one. A form that cannot be
rebuilt, or not exactly, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, compute_unbacked_bindings
from torch.utils._sympy.value_ranges import ValueRanges

from djinn_fx.srg.form.expressions import parse_bound, parse_size
from djinn_fx.srg.form.hashing import canonical_form, structural_hash
from djinn_fx.srg.form.reading import TORCH_NAMES, Body, FormReader
from djinn_fx.srg.form.targets import CannotRebuild
from djinn_fx.srg.lower import lower


@dataclass(frozen=True, kw_only=True)
class SizeHint:
    """What a canonical form leaves out of a symbol.

    Attributes:
        value: its size in the example it was traced with.
        positive: whether it was declared to be positive; None if nothing was said.
    """

    value: int
    positive: bool | None


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A region made from its form.

    Attributes:
        gm: as :func:`djinn_fx.srg.extract.extract` makes it: placeholders, ops, a tuple of outputs.
        example_inputs: fake tensors, SymInts and numbers, one per placeholder.
    """

    gm: GraphModule
    example_inputs: tuple[Any, ...]


def size_hints(form: Mapping[str, Any], example_inputs: Sequence[Any]) -> list[SizeHint]:
    """The hints of a form's symbols, in their order, read off the region's own inputs.

    Raises:
        CannotRebuild: a symbol that no input tells, or one whose size is only known at run time.
    """
    found: dict[str, SizeHint] = {}
    for (value, _), example in zip(form["inputs"], example_inputs, strict=True):
        if isinstance(example, torch.Tensor):
            pairs = list(zip(value[1], example.shape, strict=True))
        else:
            pairs = [(value[1], example)] if value[0] == "SymInt" else []
        for text, size in pairs:
            if isinstance(text, str) and isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                if size.node.hint is None:
                    raise CannotRebuild("a size of an input is only known at run time")
                found.setdefault(text, SizeHint(value=int(size.node.hint), positive=size.node.expr.is_positive))
    hints = []
    for number, (kind, *_) in enumerate(form["symbols"]):
        name = f"k{number}"
        if name not in found and kind not in ("u", "zuf"):
            raise CannotRebuild(f"no input tells the size {name}")
        hints.append(found.get(name, SizeHint(value=0, positive=None)))
    return hints


def rebuild(form: Any, *, hints: Sequence[SizeHint] = (), devices: Mapping[str, str] | None = None) -> Rebuilt:
    """The graph that a canonical form describes.

    Args:
        form: of a region, as :func:`djinn_fx.srg.form.hashing.canonical_form` makes it, or read back from JSON.
        hints: of its symbols, see :func:`size_hints`.
        devices: which device each numbered one of the form is: ``{"cuda#0": "cuda:1"}``.

    Raises:
        CannotRebuild: an op that is not known here, a value that cannot be made, or a graph whose own canonical form
            is another than the one given.
    """
    try:
        made = _Rebuilder(form, hints, devices or {}).region(form)
    except CannotRebuild:
        raise
    except Exception as error:  # a form is data: whatever is wrong with it ends here
        text = str(error).strip().splitlines()
        raise CannotRebuild(f"{type(error).__name__}: {text[0][:300] if text else 'no message'}") from error
    return made


class _Rebuilder(FormReader):
    """What a region and the bodies of its higher-order ops share: the fake mode and the symbols."""

    def __init__(self, form: Any, hints: Sequence[SizeHint], devices: Mapping[str, str]) -> None:
        self._shapes = ShapeEnv(duck_shape=False)
        self._mode = FakeTensorMode(shape_env=self._shapes)
        super().__init__(devices)
        self._hints: dict[Any, Any] = {}
        self._symbols: dict[str, Any] = {}
        facts = form["symbols"]
        if len(hints) != len(facts):
            raise CannotRebuild(f"{len(facts)} symbols but {len(hints)} hints")
        for number, (fact, hint) in enumerate(zip(facts, hints, strict=True)):
            self._add_symbol(f"k{number}", fact, hint)

    def region(self, form: Any) -> Rebuilt:
        outputs = ["list", *(["%", number] for number in form["outputs"])]
        # As the engines do it: autocast and autograd were applied when the region was traced.
        with enable_python_dispatcher(), self._mode, torch.no_grad(), torch._C._DisableAutocast():
            gm = self.graph(form, outputs, "DjinnRegion")
        placeholders = gm.graph.find_nodes(op="placeholder")
        lower(gm)
        ops = [node for node in gm.graph.nodes if node.op == "call_function"]
        returned = gm.graph.output_node().args[0]
        again = canonical_form(ops, placeholders, returned)  # type: ignore[arg-type]
        if structural_hash(again) != structural_hash(form):
            raise CannotRebuild(_first_difference(again, form))
        return Rebuilt(gm=gm, example_inputs=tuple(node.meta["val"] for node in placeholders))

    def _add_symbol(self, name: str, fact: Sequence[str], hint: SizeHint) -> None:
        kind, lower_bound, upper_bound = fact
        if kind in ("u", "zuf"):
            return  # made by the op that reads it from data
        if kind != "s":
            raise CannotRebuild(f"{name} is a symbol of kind {kind!r}")
        symbol = self._shapes.create_symbol(
            hint.value,
            ConstantSource(name),
            dynamic_dim=DimDynamic.DYNAMIC,
            positive=hint.positive,
            do_not_specialize_zero_one=True,
        )
        if lower_bound or upper_bound:
            bounds = ValueRanges(parse_bound(lower_bound), parse_bound(upper_bound))
            if hint.value not in bounds:
                raise CannotRebuild(f"{name} is {hint.value}, which is outside its bounds {lower_bound}, {upper_bound}")
            self._shapes.var_to_range[symbol] = bounds
        self._symbols[name] = symbol
        self._hints[symbol] = sympy.Integer(hint.value)

    def place(self, inputs: Sequence[Any], made: Body) -> None:
        """With example inputs."""
        super().place(inputs, made)
        for node, value in zip(made.nodes, self._inputs(inputs), strict=True):
            node.meta["val"] = value

    def compute(self, node: Node, made: Body) -> None:
        """A fake value, by running the op on those of its arguments."""
        value = node.target(*_values(node.args, made), **_values(node.kwargs, made))  # type: ignore[operator]
        bindings = compute_unbacked_bindings(self._shapes, value)
        if bindings:
            node.meta["unbacked_bindings"] = bindings
        node.meta["val"] = value

    def _inputs(self, inputs: Sequence[Any]) -> list[Any]:
        """The example inputs; those that share memory are views of one storage here too."""
        sharing: dict[int, list[Any]] = {}
        for value, storages in inputs:
            for storage in storages:
                sharing.setdefault(storage, []).append(value)
        bases = {number: self._base(values) for number, values in sharing.items() if len(values) > 1}
        return [self._input(value, bases.get(storages[0]) if storages else None) for value, storages in inputs]

    def _base(self, values: Sequence[Any]) -> Any:
        """Memory that is large enough for each of these tensors, in the type of the first."""
        if len({value[0] for value in values}) > 1:
            raise CannotRebuild("inputs of different types share memory")
        lengths = [self._length(value) for value in values]
        fixed = all(type(length) is int for length in lengths)
        return self._tensor(values[0], [max(lengths) if fixed else sum(lengths)], [1])

    def _length(self, value: Any) -> Any:
        """How many elements of memory a tensor reaches over."""
        _, shape, strides, (offset,), *_ = value
        sizes = [self.size(size) for size in shape]
        if any(type(size) is int and size == 0 for size in sizes):
            return 0
        steps = (self.size(stride) * (size - 1) for size, stride in zip(sizes, strides, strict=True))
        return self.size(offset) + 1 + sum(steps)

    def _input(self, value: Any, base: Any) -> Any:
        kind = value[0]
        if kind == "SymInt":
            return self._symint(value[1])
        if len(value) == 2 and isinstance(value[1], str):
            return _number(kind, value[1])
        if f"torch.{kind}" not in TORCH_NAMES or len(value) != 5:
            raise CannotRebuild(f"an input that is a {kind} {value[5:]}")
        _, shape, strides, (offset,), _ = value
        sizes, steps = [self.size(size) for size in shape], [self.size(stride) for stride in strides]
        if base is None and offset == 0:
            return self._tensor(value, sizes, steps)
        memory = base if base is not None else self._tensor(value, [self._length(value)], [1])
        return memory.as_strided(sizes, steps, self.size(offset))

    def _tensor(self, value: Any, sizes: Sequence[Any], strides: Sequence[Any]) -> Any:
        return torch.empty_strided(sizes, strides, dtype=TORCH_NAMES[f"torch.{value[0]}"], device=self.device(value[4]))

    def size(self, size: Any) -> Any:
        """A size, by its expression where it is no number."""
        if type(size) is int:
            return size
        expression = parse_size(size, self._symbols)
        hint = expression.xreplace(self._hints)
        return self._shapes.create_symintnode(expression, hint=int(hint))

    def _symint(self, text: str) -> torch.SymInt:
        """As :meth:`size`; what was found to be a number while the graph was traced is still of the symbolic type."""
        size = self.size(text)
        if isinstance(size, torch.SymInt):
            return size
        return torch.SymInt(SymNode(sympy.Integer(size), self._shapes, int, size, fx_node=None))


def _values(arguments: Any, made: Body) -> Any:
    """Arguments of a node with each node in them replaced by its value."""

    def value(node: Node) -> Any:
        return made.bodies[str(node.target)] if node.op == "get_attr" else node.meta["val"]

    return torch.fx.node.map_arg(arguments, value)


def _number(kind: str, text: str) -> Any:
    if kind == "NoneType" and text == "None":
        return None
    if kind == "bool" and text in ("True", "False"):
        return text == "True"
    if kind == "int" and len(text) < 30:
        return int(text)
    if kind == "float" and len(text) < 40:
        return float(text)
    raise CannotRebuild(f"an input that is the {kind} {text[:40]!r}")


def _first_difference(made: Any, wanted: Any) -> str:
    """Where the rebuilt form leaves the one it should be."""
    for part in ("inputs", "ops", "outputs", "symbols"):
        ours, theirs = (json.loads(json.dumps(form[part])) for form in (made, wanted))
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
            if mine != other:
                return f"{part} {number} comes out as {str(mine)[:300]} instead of {str(other)[:300]}"
    return "the graph that was rebuilt is another one"


__all__ = ["CannotRebuild", "Rebuilt", "SizeHint", "rebuild", "size_hints"]
