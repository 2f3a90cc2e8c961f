"""Which values of a program may live in an arena, and how long: plain data, made once for each graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy  # type: ignore[import-untyped]
import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.engines.keys import symbol_places, symbolic_inputs
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.sizes import size_text, sizes_in, worked_out
from djinn_fx.srg.effects import storages_of
from djinn_fx.srg.extract import input_value
from djinn_fx.srg.graph import SRG, fake_value, tensors_of
from djinn_fx.srg.plan import Plan
from djinn_fx.srg.record import GraphKind

if TYPE_CHECKING:
    from djinn_fx.solvers.packing.problem import Problem

#: Where values begin: what torch aligns its own memory to, and all that vector units ask for.
ALIGNMENT = 64
#: Operators that keep no argument beyond their call, as far as torch promises.
_KEEPS_NOTHING = ("aten", "prims")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Memory that is handed from one region to others: one storage.

    Attributes:
        slots: the values in it: what a region gives back, and views of it.
        step: by which it is made.
        output: which of the step's results lies in it; the first one, if several do.
        end: the first step from which on nobody reads it.
        nbytes: bytes, or a text over sizes such as ``"k0*64"``.
        dtype: torch's name of the type of that result, without the prefix.
    """

    slots: tuple[int, ...]
    step: int
    output: int
    end: int
    nbytes: int | str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """What an arena is to hold. Plain data: it can be stored.

    Attributes:
        pieces: in the order in which they are made.
        sizes: where the sizes ``k0``, ``k1``, ... in texts are read off: argument and dimension, None for the argument.
    """

    pieces: tuple[Piece, ...]
    sizes: tuple[tuple[int, int | None], ...] = ()

    def problem(self, sizes: Sequence[int]) -> Problem:
        """Lifetimes and bytes at these sizes."""
        from djinn_fx.solvers.packing.problem import Buffer, Problem  # most graphs have no arena

        names = {f"k{number}": size for number, size in enumerate(sizes)}
        return Problem(
            tuple(
                Buffer(one.step, one.end, max(0, int(worked_out(one.nbytes, names))), ALIGNMENT) for one in self.pieces
            )
        )

    def sizes_of(self, arguments: Sequence[Any]) -> tuple[int, ...]:
        """The sizes of a call with these arguments."""
        return sizes_in(self.sizes, arguments)

    def to_json(self) -> list[Any]:
        """As a JSON value."""
        rows = [[list(one.slots), one.step, one.output, one.end, one.nbytes, one.dtype] for one in self.pieces]
        return [rows, list(self.sizes)]

    @staticmethod
    def from_json(form: Any) -> Pieces:
        """What :meth:`to_json` wrote."""
        rows, sizes = form
        return Pieces(
            pieces=tuple(
                Piece(slots=tuple(slots), step=step, output=output, end=end, nbytes=nbytes, dtype=dtype)
                for slots, step, output, end, nbytes, dtype in rows
            ),
            sizes=tuple((place, dim) for place, dim in sizes),
        )


def pieces_of(srg: SRG, plan: Plan, slots: Mapping[str, int]) -> tuple[Pieces | None, tuple[Reason, ...]]:
    """What an arena may hold of a graph's values, and why others stay out.

    Not what the graph returns or is given, nor anything that shares memory with it; nor what an operator of somebody
    else's reads, which might keep it.

    Args:
        srg: the graph.
        plan: its regions, in order.
        slots: of each value that crosses regions, by its node's name.

    Returns:
        None where there is nothing to hold.
    """
    if srg.kind is not GraphKind.INFERENCE:
        return None, (_outside(f"a {srg.kind.value} graph saves values for its backward graph", None),)
    return _Finder(srg, plan, slots).made()


class _Finder:
    def __init__(self, srg: SRG, plan: Plan, slots: Mapping[str, int]) -> None:
        self._srg, self._plan = srg, plan
        self._storages = storages_of(srg)
        arguments = [input_value(srg, node) for node in srg.inputs]
        self._symbols = {
            size.node.expr: sympy.Symbol(f"k{number}") for number, size in enumerate(symbolic_inputs(arguments))
        }
        self._places = symbol_places(arguments)
        outer = {node.name for node in (*srg.inputs, *srg.gm.graph.find_nodes(op="get_attr"))}
        self._crossing: dict[int, list[tuple[str, int]]] = {}
        for name, slot in slots.items():
            if name not in outer:
                for storage in self._storages[srg.node(name)]:
                    self._crossing.setdefault(storage, []).append((name, slot))

    def made(self) -> tuple[Pieces | None, tuple[Reason, ...]]:
        pieces: list[Piece] = []
        reasons: list[Reason] = []
        barred = dict(self._barred())
        for storage, values in self._crossing.items():
            if barred.get(storage) == _RETURNED:
                continue  # nobody expects that
            why = barred.get(storage) or self._odd(values)
            piece = self._piece(storage, values) if why is None else None
            if isinstance(piece, Piece):
                pieces.append(piece)
            else:
                reasons.append(_outside(why or "its bytes are known only after the call", values[0][0]))
        if not pieces:
            reasons.append(_outside("no value passes from one region to another that the call does not return", None))
            return None, tuple(reasons)
        pieces.sort(key=lambda one: (one.step, one.output))
        return Pieces(pieces=tuple(pieces), sizes=self._places), tuple(reasons)

    def _barred(self) -> Iterator[tuple[int, str]]:
        """Storages that must not be in an arena, and why; what is returned last, since that is said of no value."""
        for node in self._srg.nodes:
            target = node.target
            if node.op == "call_function" and isinstance(target, OpOverload) and target.namespace not in _KEEPS_NOTHING:
                for one in (node, *node.all_input_nodes):
                    for storage in self._storages.get(one, ()):
                        yield storage, f"{target} might keep it"
        for node in (*self._srg.inputs, *self._srg.gm.graph.find_nodes(op="get_attr")):
            for storage in self._storages[node]:
                yield storage, _RETURNED
        for node in self._srg.output.all_input_nodes:
            for storage in self._storages[node]:
                yield storage, _RETURNED

    def _odd(self, values: Sequence[tuple[str, int]]) -> str | None:
        for name, _ in values:
            tensors = tensors_of(fake_value(self._srg.node(name)))
            if len(tensors) != 1 or len(self._storages[self._srg.node(name)]) != 1:
                return "it is not one tensor"
            if tensors[0].device.type != "cpu" or tensors[0].layout is not torch.strided:
                return f"it is on {tensors[0].device} with layout {tensors[0].layout}"
        return None

    def _piece(self, storage: int, values: Sequence[tuple[str, int]]) -> Piece | None:
        steps = [self._plan.regions[index] for index in self._plan.order]
        names = {name for name, _ in values}
        made = [(step, region.outputs.index(name)) for step, region in enumerate(steps) for name in region.outputs
                if name in names]  # fmt: skip
        read = [step for step, region in enumerate(steps) if names & set(region.inputs)]
        step, output = min(made)
        node = self._srg.node(steps[step].outputs[output])
        value = tensors_of(fake_value(node))[0]
        nbytes = size_text(value.untyped_storage().nbytes(), self._symbols)
        made_by = {self._srg.record(one).region for one in self._owners(storage)}
        if nbytes is None or made_by != {steps[step].index}:
            return None
        return Piece(
            slots=tuple(sorted(slot for _, slot in values)),
            step=step,
            output=output,
            end=max([step, *read]) + 1,
            nbytes=nbytes,
            dtype=str(value.dtype).removeprefix("torch."),
        )

    def _owners(self, storage: int) -> Iterator[Node]:
        """The op by which a storage comes to be."""
        yield next(node for node in self._srg.ops if storage in self._storages[node])


_RETURNED = "the caller has it"


def _outside(why: str, name: str | None) -> Reason:
    return Reason(kind=ReasonKind.OUTSIDE_ARENA, detail=f"not in the arena: {why}", node=name)
