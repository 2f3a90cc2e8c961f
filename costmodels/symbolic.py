"""The work of a graph as formulas of its symbols: written once, worked out at any sizes without tracing again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]

from djinn_fx.costmodels.work.sizes import Sizes, expression_functions, symbols_of, worked_out
from djinn_fx.costmodels.work.work import SUMMED, Work
from djinn_fx.costmodels.work.work_of import sizes_of, work_at
from djinn_fx.errors import did_you_mean
from djinn_fx.srg.graph import SRG


@dataclass(frozen=True, kw_only=True)
class SymbolicWork:
    """What an op or a graph does, as formulas.

    Where the count depends on which of two sizes is larger, or on how memory lies, the example's sizes decide.

    Attributes:
        op: as in :class:`Work`.
        kind: as in :class:`Work`.
        formulas: for each field of :data:`SUMMED` its formula as text, e.g. ``"1572864*s0"``.
        symbols: names of the graph's symbols, whether or not a formula holds them.
        unpriced: for each op that is not in the sums (its bytes are): its node's name and why.
    """

    op: str
    kind: str
    formulas: Mapping[str, str]
    symbols: tuple[str, ...] = ()
    unpriced: tuple[tuple[str, str], ...] = ()

    def at(self, sizes: Mapping[str, int]) -> Work:
        """The numbers at these sizes.

        Raises:
            ValueError: a symbol that is needed is not given, is not known or is negative; names it.
        """
        _check(sizes, self.symbols)
        numbers: dict[str, Any] = {name: int(worked_out(text, sizes)) for name, text in self.formulas.items()}
        problem = f"{self.unpriced[0][0]}: {self.unpriced[0][1]}" if self.unpriced else None
        return Work(op=self.op, kind=self.kind, problem=problem, **numbers)

    def __str__(self) -> str:
        return "\n".join(f"{name} = {text}" for name, text in self.formulas.items() if text != "0")


def symbolic_total(srg: SRG) -> SymbolicWork:
    """What the whole graph does, as formulas of its symbols. Takes about a millisecond an op that has symbols."""
    sizes = _expressions(srg)
    sums: dict[str, dict[Any, int]] = {name: {} for name in SUMMED}
    unpriced = []
    for node in srg.ops:
        work = work_at(sizes, node)
        for name in SUMMED:
            value = getattr(work, name)
            sums[name][value] = sums[name].get(value, 0) + 1  # layers repeat: equal terms are added up once
        if work.problem is not None:
            unpriced.append((node.name, work.problem))
    formulas = {name: str(_sum(terms)) for name, terms in sums.items()}
    symbols = tuple(sizes.values or ())
    return SymbolicWork(op="total", kind="other", formulas=formulas, symbols=symbols, unpriced=tuple(unpriced))


def _sum(terms: Mapping[Any, int]) -> Any:
    number = sum(value * count for value, count in terms.items() if isinstance(value, int))
    return sympy.expand(sympy.Add(number, *(v * count for v, count in terms.items() if not isinstance(v, int))))


def _expressions(srg: SRG) -> Sizes:
    """The graph's tensors with expressions for sizes."""
    names: set[str] = set()
    for node in srg.nodes:
        for meta in srg.record(node).outputs:
            if meta.is_symbolic:
                for size in (*meta.shape, *meta.strides):
                    if isinstance(size, str):
                        names |= symbols_of(size)
    values = {name: sympy.Symbol(name, integer=True, nonnegative=True) for name in sorted(names)}
    return Sizes(srg, values, expression_functions(), sizes_of(srg))


def _check(sizes: Mapping[str, int], known: tuple[str, ...]) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"the size of {name} is {size!r}, not a whole number of 0 or more")
        if name not in known:
            hint = did_you_mean(name, known, cutoff=0.5)
            raise ValueError(f"{name} is no symbol of these formulas ({', '.join(known) or 'there is none'}){hint}")
