"""The page: complete without scripts and network, and whatever a user's names hold."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from djinn_fx.explain.compare import comparison
from djinn_fx.explain.detail.flow import Edge
from djinn_fx.explain.detail.memory import MOST_POINTS, MemoryCurve
from djinn_fx.explain.detail.timeline import Span, Timeline
from djinn_fx.explain.forms.dot import to_dot
from djinn_fx.explain.forms.html.flowchart import HEIGHT, MOST, WIDTH, flow_chart, folded
from djinn_fx.explain.forms.html.memorychart import AIR, SIDE, memory_charts
from djinn_fx.explain.forms.html.page import to_html
from djinn_fx.explain.forms.html.scale import ticks
from djinn_fx.explain.forms.html.shown import MOST_DRAWN
from djinn_fx.explain.forms.html.timechart import time_chart
from djinn_fx.explain.forms.markdown import to_markdown
from djinn_fx.explain.forms.model_explorer import to_model_explorer
from djinn_fx.explain.forms.trace import to_trace
from djinn_fx.explain.forms.words import cache_text
from djinn_fx.explain.report import CacheInfo, CacheLookup, RegionInfo, Report
from djinn_fx.srg.memory import Holds
from djinn_fx.srg.record import Cost
from tests.explain.forms.conftest import AWKWARD

#: Elements that have no end.
VOID = {"meta", "input", "br", "link", "img", "hr", "wbr"}


class Page(HTMLParser):
    """The elements of a page, with what is wrong with how they are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self.open, self.wrong = "", "", list[str](), list[str]()
        self.cells = list[str]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts += data
        elif inside != "style":
            self.text += data
            self.cells.append(data)

    def values(self, name: str) -> list[str]:
        """Of an attribute, wherever it is."""
        return [value for _, attrs in self.elements if (value := attrs.get(name)) is not None]


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return to_html(report)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_it_is_well_formed_and_every_link_leads_somewhere(page: Page) -> None:
    assert page.wrong == page.open == []
    ids = Counter(page.values("id"))
    assert set(ids.values()) == {1}
    assert {link.removeprefix("#") for link in page.values("href")} <= set(ids)
    assert set(re.findall(r"url\(#(\w+)\)", " ".join(page.values("marker-end")))) <= set(ids)


def test_nothing_is_loaded_and_only_its_own_script_may_run(page: Page) -> None:
    assert page.values("src") == []
    assert [tag for tag, _ in page.elements if tag in ("script", "link", "img", "iframe", "object")] == ["script"]
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    digest = base64.b64encode(hashlib.sha256(page.scripts.encode()).digest()).decode()
    (policy,) = (attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_users_markup_is_text(page: Page, report: Report) -> None:
    assert report.model.name in page.text
    assert AWKWARD in page.text.replace(report.model.name, "")  # a module's name


def test_all_regions_and_the_verdict_are_there_without_a_script(page: Page, report: Report) -> None:
    text = " ".join(page.text.split())
    for graph in report.graphs:
        for region in graph.regions:
            assert region.label in text
            assert region.structural_hash in text
    assert text.index("Verdict") < text.index("Timeline")
    assert report.scenarios[0].graph_breaks[0] in text
    assert Counter(tag for tag, _ in page.elements)["table"] >= len(report.graphs)


def test_it_is_the_same_for_the_same_report(report: Report, html: str) -> None:
    assert to_html(report) == html


def test_several_scenarios_are_columns_and_sections(report: Report) -> None:
    (scenario,), (run,) = report.scenarios, report.run.scenarios
    names = ("prefill", "decode")
    twice = replace(
        report,
        scenarios=tuple(replace(scenario, name=name) for name in names),
        run=replace(report.run, scenarios=tuple(replace(run, name=name) for name in names)),
    )
    page = Page(to_html(twice))
    assert page.wrong == []
    assert {f"#s{number}" for number in (1, 2)} <= set(page.values("href"))
    assert set(Counter(page.values("id")).values()) == {1}


def test_a_scenario_that_failed_says_so_in_every_form(report: Report) -> None:
    (scenario,), (run,) = report.scenarios, report.run.scenarios
    failed = replace(scenario, graphs=(), graph_breaks=(), failed="net.py:7: it is < 3")
    nothing = replace(report, scenarios=(failed,), run=replace(report.run, scenarios=(replace(run, graphs=()),)))
    page = Page(to_html(nothing))
    assert page.wrong == []
    assert "net.py:7: it is < 3" in page.text
    assert r"net.py:7: it is \< 3" in to_markdown(nothing)
    assert json.loads(to_trace(nothing))["traceEvents"]
    assert to_dot(nothing).startswith("digraph")
    assert json.loads(to_model_explorer(nothing))["graphs"] == []
    assert "regions" in comparison(report, nothing)


def test_what_the_cache_had_is_a_table(report: Report) -> None:
    lookup = CacheLookup(
        scenario=0, graph=0, region=1, engine="eager", outcome="built", key="0123456789abcdef", why=("no <entry>",)
    )
    page = Page(to_html(replace(report, cache=CacheInfo(hits=0, misses=1, lookups=(lookup,)))))
    assert page.wrong == []
    text = " ".join(page.text.split())
    assert "0 found, 1 not." in text
    assert f"{report.graphs[0].regions[1].label} eager built 0123456789ab no <entry>" in re.sub(
        r"\s+", " ", " ".join(page.cells)
    )
    assert cache_text(CacheInfo(hits=1, misses=1, lookups=(lookup,))) == (
        "1 artefact found, 1 not; `djinn cache why 0123456789ab` says more"
    )


def test_of_many_graphs_the_costliest_are_drawn(report: Report) -> None:
    (scenario,), (run,) = report.scenarios, report.run.scenarios
    count = MOST_DRAWN + 5
    graphs = tuple(replace(scenario.graphs[0], cost=Cost(time_s=float(place))) for place in range(count))
    many = replace(
        report,
        scenarios=(replace(scenario, graphs=graphs),),
        run=replace(report.run, scenarios=(replace(run, graphs=run.graphs[:1] * count),)),
    )
    page = Page(to_html(many))
    drawn = [attrs for tag, attrs in page.elements if tag == "figure" and attrs.get("data-chart") == "time"]
    rows = [one for one in page.values("id") if re.fullmatch(r"s1g\d+r\d+", one)]
    assert len(drawn) == MOST_DRAWN
    assert len(rows) == count * len(graphs[0].regions)


def test_a_model_of_48_layers_stays_small(report: Report) -> None:
    (scenario,), (run,) = report.scenarios, report.run.scenarios
    first, steps = scenario.graphs[0], range(MOST_POINTS)
    layers = [
        replace(region(place, "ab", "gpu0"), label=f"model.layers.{place // 4}.part.{place}") for place in range(200)
    ]
    spans = [Span(region=place, device="gpu0", start_s=float(place), duration_s=1.0) for place in range(200)]
    curve = MemoryCurve(
        device="gpu0",
        steps=tuple(steps),
        at=tuple(f"_scaled_dot_product_flash_attention_{step}" for step in steps),
        holds={holds.value: tuple(10**9 + 10**6 * step for step in steps) for holds in Holds},
        peak=MOST_POINTS - 1,
        total_steps=MOST_POINTS,
    )
    edges = [Edge(source=place, target=place + 1, values=1, nbytes=4) for place in range(199)]
    large = replace(
        first,
        regions=tuple(layers),
        timeline=Timeline(spans=tuple(spans), end_s=200.0),
        curves=(curve, replace(curve, device="gpu1")),
        edges=tuple(edges),
    )
    names = ("prefill", "decode")
    both = replace(
        report,
        scenarios=tuple(replace(scenario, name=name, graphs=(large,)) for name in names),
        run=replace(report.run, scenarios=tuple(replace(run, name=name, graphs=run.graphs[:1]) for name in names)),
    )
    assert len(to_html(both).encode()) < 3_000_000


def region(index: int, hashed: str, device: str = "cpu") -> RegionInfo:
    return RegionInfo(
        index=index,
        label=f"layers.{index}",
        ops=3,
        inputs=1,
        outputs=1,
        structural_hash=hashed,
        repeats=1,
        phase=None,
        device=device,
        cost=Cost(time_s=1.0),
    )


def test_repeats_are_folded_where_they_run_on_one_device() -> None:
    made = [region(place, hashed) for place, hashed in enumerate("pababababq")]
    assert [[one.index for one in group] for group in folded(made)] == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9]]
    apart = [region(place, "a", "gpu0" if place < 2 else "gpu1") for place in range(4)]
    assert [len(group) for group in folded(apart)] == [2, 2]
    assert [len(group) for group in folded([region(0, ""), region(1, "")])] == [1, 1]


def test_boxes_stand_below_what_they_read_and_do_not_overlap() -> None:
    regions = [region(place, str(place)) for place in range(6)]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 4), (3, 4), (2, 5), (4, 5), (0, 5)]
    edges = [Edge(source=source, target=target, values=1, nbytes=4) for source, target in pairs]
    chart = flow_chart(regions, range(6), edges, {"cpu": 0})
    home = {box.regions[0]: box for box in chart.boxes}
    assert all(home[source].y + HEIGHT < home[target].y for source, target in pairs)
    for one in chart.boxes:
        assert one.x + WIDTH < chart.width
        assert one.y + HEIGHT < chart.height
        for other in chart.boxes:
            assert one is other or abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
    assert len(chart.lines) == len(pairs)


def test_a_graph_too_large_to_draw_is_cut_and_says_so() -> None:
    regions = [region(place, str(place)) for place in range(MOST + 7)]
    chart = flow_chart(regions, range(len(regions)), [], {"cpu": 0})
    assert (len(chart.boxes), chart.left_out) == (MOST, 7)


def test_bars_are_where_their_regions_run_and_short_ones_are_one() -> None:
    lengths = [10.0, *[0.001] * 50, 30.0, 59.95]
    starts = [sum(lengths[:place]) for place in range(len(lengths))]
    spans = [
        Span(region=place, device="cpu", start_s=start, duration_s=length)
        for place, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]
    end_s = sum(lengths)
    labels = [f"layers.{place}" for place in range(len(lengths))]
    chart = time_chart(Timeline(spans=tuple(spans), end_s=end_s), labels, {"cpu": 0})
    (track,) = chart.tracks
    first, short, *rest = track.bars
    assert (first.left, first.width) == (0.0, pytest.approx(100 * 10 / end_s, abs=1e-3))
    assert short.regions == tuple(range(1, 51))
    assert [bar.regions for bar in rest] == [(51,), (52,)]
    assert all(bar.left + bar.width <= 100.01 for bar in track.bars)


def test_areas_lie_on_each_other_and_the_peak_is_marked() -> None:
    curve = MemoryCurve(
        device="cpu",
        steps=(0, 1, 2),
        at=("a", "b", "c"),
        holds={"weight": (90, 90, 90), "activation": (0, 10, 5)},
        peak=1,
        total_steps=3,
    )
    whole, without = memory_charts(curve)
    assert [area.holds for area in whole.areas] == ["weight", "activation"]
    assert [area.holds for area in without.areas] == ["activation"]
    assert whole.peak == "100 B during b"
    assert whole.peak_at == 50.0
    weights, activations = (heights(area.path) for area in whole.areas)
    top = 100 * (1 + AIR)
    assert weights == pytest.approx([SIDE * (1 - high / top) for high in (90, 0)], abs=1e-2)
    assert activations == pytest.approx([SIDE * (1 - high / top) for high in (90, 100, 95, 90)], abs=1e-2)


def heights(path: str) -> list[float]:
    """Where the path goes, from its first corner on."""
    return [float(y) for y in re.findall(r"V([\d.]+)", path)]


@pytest.mark.parametrize(("end", "last"), [(1.0, 1.0), (0.99, 0.8), (7e-5, 6e-5), (12_345, 10_000)])
def test_an_axis_has_round_numbers(end: float, last: float) -> None:
    marks = ticks(end, lambda value: f"{value:.6g}")
    assert float(marks[-1].text) == pytest.approx(last)
    assert marks[-1].at == pytest.approx(100 * last / end, abs=1e-2)
    assert 3 <= len(marks) <= 6
