"""The table of phases: family, case, expected, got, rule. ``python -m tests.phase_table [part of a name ...]``."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache

from djinn_fx.passes.annotate_phase import AnnotatePhase
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.meaning.streams import trace
from djinn_fx.srg import SRG
from tests.capture import capture
from tests.families import Case, all_cases, case_named


@dataclass(frozen=True)
class Row:
    """What annotate-phase said of one case.

    Attributes:
        case: how the model was called.
        got: phase of the graphs that hold an attention (of all graphs, if none does), one entry if they agree.
        phases: phases that occur on ops, with their number.
        modalities: modalities that occur on ops.
        rule: why.
    """

    case: Case
    got: str
    phases: dict[str, int]
    modalities: tuple[str, ...]
    rule: str

    @property
    def is_right(self) -> bool:
        """Whether graph, ops and modality are as expected."""
        wanted = {self.case.phase, *self.case.contains}
        modality = self.case.modality is None or self.modalities == (self.case.modality,)
        return self.got == self.case.phase and set(self.phases) == wanted and modality

    def __str__(self) -> str:
        ops = " ".join(f"{phase}:{count}" for phase, count in sorted(self.phases.items()))
        expected = self.case.phase + (f" {self.case.modality}" if self.case.modality else "")
        mark = " " if self.is_right else "!"
        return f"{mark} {self.case.name:30} {expected:14} {self.got:8} {ops:34} {self.rule}"


@cache
def graphs_of(name: str) -> list[SRG]:
    """The labelled graphs of a case, captured once a process; for reading only."""
    graphs = capture(*case_named(name).make())
    for srg in graphs:
        run_passes(srg, (AnnotatePhase(),), PassContext(), check=True)
    return graphs


def row_of(case: Case) -> Row:
    """Capture a case, label its graphs, and sum up those that hold an attention."""
    return summed(case, graphs_of(case.name))


def summed(case: Case, graphs: list[SRG]) -> Row:
    """One row for the labelled graphs of one call."""
    with_attention = [srg for srg in graphs if trace(srg).attentions]
    told = with_attention or graphs
    records = [srg.record(node) for srg in told for node in srg.ops]
    return Row(
        case,
        "/".join(sorted({srg.phase.value for srg in told if srg.phase})),
        dict(Counter(record.phase.value for record in records if record.phase)),
        tuple(sorted({record.modality.value for record in records if record.modality})),
        told[0].reasons[0].detail,
    )


def main(parts: list[str]) -> int:
    """Print the table; the number of wrong rows."""
    wrong = 0
    for case in all_cases():
        if not parts or any(part in case.name for part in parts):
            row = row_of(case)
            print(row, flush=True)
            wrong += not row.is_right
    print(f"{wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
