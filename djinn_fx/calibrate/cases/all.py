"""The list of calibration cases."""

from __future__ import annotations

from djinn_fx.calibrate.cases.case import Case


def all_cases() -> list[Case]:
    """Every case, in the order of the list.

    The modules that build them need torch; this one does not until it is asked.
    """
    from djinn_fx.calibrate.cases import blocks, matmuls, moves, pointwise, sequences

    found = [*matmuls.cases(), *pointwise.cases(), *sequences.cases(), *moves.cases(), *blocks.cases()]
    names = [case.name for case in found]
    assert len(set(names)) == len(names), "case names are unique"
    return found
