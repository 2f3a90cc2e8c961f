"""What is said of a graph that does not fit into a budget of memory."""

from __future__ import annotations

from djinn_fx.srg.memory import MemoryPeak
from djinn_fx.units import format_bytes


def refusal(phase: str, peak: MemoryPeak, budget: int, smallest: int, whole: str = "") -> str:
    """A sentence with the op at the fullest moment, its line, the largest tensor then, and the smallest budget.

    Args:
        phase: of the graph.
        peak: of its own ops.
        budget: bytes that are given.
        smallest: bytes that do.
        whole: why it is not run in slices of its batch, if that was looked at.
    """
    binding = f"{peak.biggest[0].name} ({peak.biggest[0].holds.value}, {format_bytes(peak.biggest[0].nbytes)})"
    at = f"{peak.at.op} runs ({peak.at.source or peak.at.name})" if peak.at is not None else "it is called"
    return (
        f"memory_budget: {format_bytes(budget)} on {peak.device} do not hold the {phase} graph, whose own ops take "
        f"{format_bytes(peak.nbytes)} while {at}, most of it {binding}; the smallest budget is {smallest} bytes. "
        f"{f'In slices of the batch it cannot run: {whole}. ' if whole else ''}"
        "Give more, call it with less, or read weights from disk with djinn_fx.load_offloaded"
    )
