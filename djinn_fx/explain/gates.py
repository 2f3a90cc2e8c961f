"""``--fail-on "graph-breaks>0"``: figures of a report that end the command with an exit code of their own."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from djinn_fx.errors import SettingsError, UnitError, did_you_mean
from djinn_fx.explain.report import Report, Scenario, ScenarioRun, reasons_of
from djinn_fx.explain.verdict import call_seconds
from djinn_fx.reasons import ReasonKind
from djinn_fx.units import format_bytes, format_seconds, parse_bytes, parse_seconds

_GATE = re.compile(r"\s*(?P<figure>[a-z-]+)\s*(?P<sign>>=|<=|==|>|<)\s*(?P<limit>[\d.]+\s*[A-Za-z]*)\s*")
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}


@dataclass(frozen=True)
class _Figure:
    """A figure of a scenario: how it is read off, and how its limit is read and shown."""

    of: Callable[[Scenario, ScenarioRun], float]
    read: Callable[[str], float]
    show: Callable[[float], str]


def _peak(scenario: Scenario, run: ScenarioRun) -> float:
    """The most bytes on one device."""
    del run
    return max((peak.nbytes for graph in scenario.graphs for peak in graph.memory), default=0)


def _fallbacks(scenario: Scenario, run: ScenarioRun) -> float:
    """Regions that fell back to eager, or that something else is said to have fallen back for."""
    built = sum(build.outcome == "fallback" for graph in run.graphs for build in graph.builds)
    return max(
        built, sum(reason.count for reason in reasons_of(scenario, run) if reason.kind == ReasonKind.FALLBACK.value)
    )


def _count(value: float) -> str:
    return f"{value:.0f}"


_FIGURES = {
    "graph-breaks": _Figure(lambda scenario, _: len(scenario.graph_breaks), float, _count),
    "graphs": _Figure(lambda scenario, _: len(scenario.graphs), float, _count),
    "ops": _Figure(lambda scenario, _: sum(graph.ops for graph in scenario.graphs), float, _count),
    "fallback": _Figure(_fallbacks, float, _count),
    "peak": _Figure(_peak, parse_bytes, lambda value: format_bytes(int(value))),
    "time": _Figure(lambda scenario, run: call_seconds(scenario, run.check), parse_seconds, format_seconds),
}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """``figure sign limit``: the command fails where it holds."""

    text: str
    figure: str
    sign: str
    limit: float

    def broken_by(self, report: Report) -> str | None:
        """The figure of the first scenario for which it holds, in words; None: for none."""
        figure = _FIGURES[self.figure]
        for scenario, run in zip(report.scenarios, report.run.scenarios, strict=True):
            value = figure.of(scenario, run)
            if scenario.failed is None and _SIGNS[self.sign](value, self.limit):
                where = f" in scenario {scenario.name}" if scenario.name else ""
                return f"{self.text}: {self.figure} is {figure.show(value)}{where}"
        return None


def read_gates(texts: Sequence[str]) -> list[Gate]:
    """Read what follows ``--fail-on``.

    Raises:
        SettingsError: it is no gate.
    """
    return [_read(text) for text in texts]


def _read(text: str) -> Gate:
    match = _GATE.fullmatch(text)
    if match is None:
        raise SettingsError(f'--fail-on {text}: write it as "graph-breaks>0" or "peak>20GiB"')
    figure = _FIGURES.get(match["figure"])
    if figure is None:
        hint = did_you_mean(match["figure"], _FIGURES, f"; there is {', '.join(_FIGURES)}")
        raise SettingsError(f"--fail-on {text}: no figure {match['figure']!r}{hint}")
    try:
        limit = float(figure.read(match["limit"].strip()))
    except (UnitError, ValueError) as error:
        raise SettingsError(f"--fail-on {text}: {error}") from error
    return Gate(text=text.strip(), figure=match["figure"], sign=match["sign"], limit=limit)
