"""The page: the template filled with the report and its charts."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import BaseLoader, Environment, StrictUndefined
from markupsafe import Markup

from djinn_fx.explain.forms.html.shown import shown_scenarios
from djinn_fx.explain.forms.placement import spans
from djinn_fx.explain.forms.words import (
    IMPORTANCE,
    check_text,
    cost_text,
    found_text,
    is_routine,
    memory_text,
    pays_text,
    pricing_text,
    reason_detail,
    source_text,
    time_text,
)
from djinn_fx.explain.report import ReasonGroup, Report
from djinn_fx.units import format_bytes, format_count, format_seconds

_RANK = {kind.value: place for place, kind in enumerate(IMPORTANCE)}


def to_html(report: Report) -> str:
    """The report as one HTML file. Whatever text is the user's is escaped; the page's policy lets nothing be loaded."""
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().from_string(_file("page.html.j2"))
    return page.render(
        report=report,
        found=found_text(report),
        memory_text=memory_text,
        scenarios=shown_scenarios(report),
        script=Markup(script),
        style=Markup(_file("page.css")),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'",
    )


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "nbytes": format_bytes,
        "seconds": format_seconds,
        "count": format_count,
        "time": time_text,
        "cost": cost_text,
        "reason": reason_detail,
        "pays": pays_text,
        "spans": spans,
        "ranked": _ranked,
        "file": source_text,
        "check": check_text,
        "pricing": pricing_text,
    }
    return made


@dataclass(frozen=True)
class _Told:
    """A reason, and whether it is of routine."""

    reason: ReasonGroup
    routine: bool


def _ranked(reasons: tuple[ReasonGroup, ...]) -> list[_Told]:
    ranked = sorted(reasons, key=lambda reason: (_RANK.get(reason.kind, len(_RANK)), -reason.count))
    return [_Told(reason, is_routine(reason)) for reason in ranked]
