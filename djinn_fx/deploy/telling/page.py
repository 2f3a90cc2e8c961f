"""A plan as one page without anything from elsewhere: figures, and who ran when on which device."""

from __future__ import annotations

import html as escape
from collections.abc import Iterator

import numpy as np

from djinn_fx.deploy.planning import Planned
from djinn_fx.deploy.telling import console
from djinn_fx.deploy.telling.rows import device_rows

#: Pixels of the chart, and bars that are drawn one by one; beyond that they are joined, pixel by pixel.
WIDTH, ROW, LEFT, MOST_BARS = 1200, 16, 90, 20_000
#: Colours that are told apart (Okabe and Ito 2008), then the wheel.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>djinn deploy</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
 body { font: 14px system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
 pre { background: #f6f6f6; padding: 1em; overflow-x: auto }
 svg text { font: 11px system-ui, sans-serif }
 .key span { display: inline-block; margin-right: 1.2em } .key i { display: inline-block; width: 1em; height: 1em }
</style></head><body>
"""


def html(planned: Planned) -> str:
    """The page's text."""
    return "".join(_parts(planned))


def _parts(planned: Planned) -> Iterator[str]:
    names = planned.workload.model_names
    used = sorted({one.model for one in planned.plan.replicas})
    colours = {model: _colour(place) for place, model in enumerate(used)}
    yield _HEAD
    yield "<h1>Deployment</h1>\n<p class=key>"
    for model in used:
        yield f'<span><i style="background:{colours[model]}"></i> {escape.escape(names[model])}</span>'
    yield "</p>\n"
    yield from _chart(planned, colours)
    for part in (console.assignment, console.proof, console.front, console.metrics):
        text = part(planned)
        if text:
            yield f"<pre>{escape.escape(text)}</pre>\n"
    yield "</body></html>"


def _colour(place: int) -> str:
    return COLOURS[place] if place < len(COLOURS) else f"hsl({place * 137 % 360} 55% 50%)"


def _chart(planned: Planned, colours: dict[int, str]) -> Iterator[str]:
    rows, makespan = device_rows(planned), planned.measures.makespan or 1.0
    height = ROW * len(rows) + 24
    yield f'<svg role="img" aria-label="who ran when" width="{LEFT + WIDTH}" height="{height}">\n'
    for place, row in enumerate(rows):
        yield f'<text x="0" y="{ROW * place + 12}">{row.server} / GPU {row.gpu}</text>'
    scale = WIDTH / makespan
    for model, gpu, start, end in _bars(planned, makespan):
        x, width = LEFT + start * scale, max((end - start) * scale, 0.3)
        yield (
            f'<rect x="{x:.2f}" y="{ROW * gpu + 1}" width="{width:.2f}" height="{ROW - 2}" fill="{colours[model]}">'
            f"<title>{escape.escape(planned.workload.model_names[model])} {start:.1f}-{end:.1f}s</title></rect>\n"
        )
    for n in range(11):
        x = LEFT + WIDTH * n / 10
        yield f'<text x="{x - 20:.0f}" y="{height - 6}">{makespan * n / 10:.0f} s</text>'
    yield "</svg>\n"


def _bars(planned: Planned, makespan: float) -> Iterator[tuple[int, int, float, float]]:
    """Model, device, start and end; bars of one copy that touch within a pixel are one where there are many."""
    outcome, problem = planned.outcome, planned.problem
    widths = sum(problem.models[one.model].gang for one in planned.plan.replicas) or 1
    gap = makespan / WIDTH if len(outcome.start) * widths / len(planned.plan.replicas) > MOST_BARS else 0.0
    for number, one in enumerate(planned.plan.replicas):
        mine = np.flatnonzero(outcome.replica == number)
        order = mine[np.argsort(outcome.start[mine], kind="stable")]
        joined: list[list[float]] = []
        for start, end in zip(outcome.start[order].tolist(), outcome.end[order].tolist(), strict=True):
            if gap and joined and start - joined[-1][1] < gap:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        for start, end in joined:
            for device in range(one.first, one.first + problem.models[one.model].gang):
                yield one.model, device, start, end
