"""A rule that an answer breaks, and how that is told: common to the solvers' validators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from djinn_fx.errors import SolverError


@dataclass(frozen=True)
class Broken:
    """A rule that an answer breaks.

    Attributes:
        rule: which.
        places: of the buffers, nodes, operators or tasks that break it; none where it is about the whole.
        detail: the numbers.
    """

    rule: Enum
    places: tuple[int, ...]
    detail: str


def refuse(broken: Sequence[Broken], what: str, of: str) -> None:
    """Tell the first of the rules that an answer breaks, if there is one.

    Args:
        broken: those that it breaks.
        what: the answer, such as ``"a packing found by greedy"``.
        of: what the places are, such as ``"buffers"``.

    Raises:
        SolverError: it breaks one.
    """
    if broken:
        first = broken[0]
        where = f" by {of} {', '.join(map(str, first.places))}" if first.places else ""
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise SolverError(f"{what} breaks a rule{where}: {first.rule.value}; {first.detail}{more}")
