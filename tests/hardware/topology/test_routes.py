"""Routes: costs against the definition, the cheapest by size against all simple paths, churn against a rebuild."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.topology.links import Link
from djinn_fx.hardware.topology.nodes import FORWARDING, Node
from djinn_fx.hardware.topology.presets import preset
from djinn_fx.hardware.topology.routes import PathTable, Route
from djinn_fx.hardware.topology.topology import Topology, cheapest
from tests.examples import examples

SIZES = (0, 1, 1_000, 1_000_000, 10**9)


def link(source: str, target: str, rate: float = 1e9, late: float = 1e-6, name: str = "") -> Link:
    return Link(
        name=name or f"{source}->{target}",
        source=source,
        target=target,
        kind="test",
        bandwidth_bytes_s=rate,
        latency_s=late,
        medium=name or f"{source}->{target}",
    )


def topology(kinds: dict[str, str], links: Sequence[Link]) -> Topology:
    return Topology(name="t", nodes={n: Node(name=n, forwarding=k) for n, k in kinds.items()}, links=tuple(links))


def simple_paths(one: Topology, source: str, target: str) -> Iterator[list[Link]]:
    """Every way that visits no node twice and passes only through nodes that pass on: the oracle."""

    def walk(here: str, seen: set[str], so_far: list[Link]) -> Iterator[list[Link]]:
        if here == target:
            yield so_far
            return
        if so_far and one.nodes[here].forwarding == "none":
            return
        for nxt in one.links_from(here):
            if nxt.target not in seen:
                yield from walk(nxt.target, seen | {nxt.target}, [*so_far, nxt])

    yield from walk(source, {source}, [])


def seconds(one: Topology, path: Sequence[Link], nbytes: int) -> float:
    """The definition: latencies add up; each stretch that cuts through streams at its slowest link's rate."""
    total, slowest = 0.0, 0.0
    for number, step in enumerate(path):
        if number and one.nodes[step.source].forwarding == "store-and-forward":
            total, slowest = total + slowest, 0.0
        total += step.latency_s
        slowest = max(slowest, nbytes / step.bandwidth_bytes_s)
    return total + slowest


def test_cut_through_takes_the_slowest_links_rate_and_store_and_forward_adds_up() -> None:
    links = [link("a", "s", 1e9, 1e-3), link("s", "b", 2e9, 2e-3)]
    through = topology({"a": "none", "s": "cut-through", "b": "none"}, links)
    stored = topology({"a": "none", "s": "store-and-forward", "b": "none"}, links)
    assert through.transfer("a", "b", 10**9).time_s == pytest.approx(0.003 + 1.0)
    assert stored.transfer("a", "b", 10**9).time_s == pytest.approx(0.003 + 1.0 + 0.5)


def test_a_device_passes_nothing_on_unless_it_says_so() -> None:
    links = [link("a", "d"), link("d", "b")]
    with pytest.raises(SettingsError, match="no way from 'a' to 'b'"):
        topology({"a": "none", "d": "none", "b": "none"}, links).transfer("a", "b", 1)


def test_the_cheapest_way_depends_on_the_size() -> None:
    one = topology(
        {"a": "none", "s": "cut-through", "b": "none"},
        [link("a", "b", 1e9, 1e-6), link("a", "s", 1e11, 1e-3), link("s", "b", 1e11, 1e-3)],
    )
    assert one.transfer("a", "b", 1000).route.nodes == ("a", "b")
    assert one.transfer("a", "b", 10**9).route.nodes == ("a", "s", "b")


def test_a_link_may_be_slower_on_the_way_back() -> None:
    one = topology({"a": "none", "b": "none"}, [link("a", "b", 1e9), link("b", "a", 1e8)])
    assert one.transfer("b", "a", 10**8).time_s == pytest.approx(1.0, rel=1e-4)
    assert one.transfer("a", "b", 10**8).time_s == pytest.approx(0.1, rel=1e-4)


def test_a_node_reaches_itself_at_once_and_nothing_takes_latency() -> None:
    one = topology({"a": "none", "b": "none"}, [link("a", "b", 1e9, 1e-3)])
    assert one.transfer("a", "a", 10**9).time_s == 0
    assert one.transfer("a", "b", 0).time_s == 1e-3
    with pytest.raises(ValueError, match="-1 bytes"):
        one.transfer("a", "b", -1)


NAMES = "abcdef"


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    kinds = {name: draw(st.sampled_from(FORWARDING)) for name in NAMES}
    pairs = draw(st.lists(st.sampled_from(list(itertools.permutations(NAMES, 2))), max_size=16, unique=True))
    rates, lates = st.sampled_from([1e8, 1e9, 3e9, 1e10]), st.sampled_from([0.0, 1e-6, 1e-4, 3e-4])
    return topology(kinds, [link(one, other, draw(rates), draw(lates)) for one, other in pairs])


@given(topologies())
@examples(60)
def test_the_table_holds_the_best_of_all_ways_for_each_size(one: Topology) -> None:
    for source, target in itertools.permutations(NAMES, 2):
        ways = list(simple_paths(one, source, target))
        routes = one.paths.routes(source, target)
        assert bool(ways) == bool(routes)
        for nbytes in SIZES if ways else ():
            best = min(seconds(one, path, nbytes) for path in ways)
            assert cheapest(one.paths, source, target, nbytes).time_s == pytest.approx(best)


def everything(table: PathTable) -> dict[tuple[str, str], tuple[Route, ...]]:
    names = table.topology.nodes
    return {(one, other): table.routes(one, other) for one in names for other in names}


@given(topologies(), st.lists(st.tuples(st.booleans(), st.sampled_from(NAMES)), max_size=8))
@examples(60)
def test_after_any_churn_the_table_equals_a_rebuild(one: Topology, events: list[tuple[bool, str]]) -> None:
    table = PathTable(one)
    everything(table)
    for joins, name in events:
        there = set(table.topology.nodes)
        if joins and name not in there:
            back = [each for each in one.links if name in (each.source, each.target)]
            table.join(one.nodes[name], [each for each in back if {each.source, each.target} - {name} <= there])
        elif not joins and name in there:
            table.leave(name)
    assert everything(table) == everything(PathTable(table.topology))


def test_a_device_that_leaves_and_joins_costs_little_of_a_rebuild() -> None:
    table = PathTable(preset("dgx-h100", 8))
    devices = list(table.topology.devices)
    for one in devices:
        table.routes(one, devices[0])
    rebuild = table.work
    gone = table.topology.nodes["3/gpu5"]
    links = [each for each in table.topology.links if gone.name in (each.source, each.target)]
    table.leave(gone.name)
    left = table.work - rebuild
    table.join(gone, links)
    joined = table.work - rebuild - left
    # A device passes nothing on: when it leaves nothing is searched; when it joins, each source tries its two links.
    assert left == 0
    assert joined <= 4 * len(devices) < rebuild / 20
    with pytest.raises(SettingsError, match="'9/gpu0', which is not there"):
        table.leave("9/gpu0")


def test_when_a_switch_leaves_only_what_went_through_it_is_searched_again() -> None:
    table = PathTable(preset("dgx-h100", 8))
    devices = list(table.topology.devices)
    for one in devices:
        table.routes(one, devices[0])
    rebuild = table.work
    table.leave("2/nvswitch")
    assert 0 < table.work - rebuild < rebuild / 5
    assert "2/nvswitch" not in cheapest(table, "2/gpu0", "2/gpu1", 10**9).route.nodes
    assert everything(table) == everything(PathTable(table.topology))


def test_nodes_may_not_join_twice_or_with_foreign_links() -> None:
    one = topology({"a": "none", "b": "none"}, [link("a", "b")])
    with pytest.raises(SettingsError, match="has a node 'a' already"):
        one.with_node(Node(name="a"), [])
    with pytest.raises(SettingsError, match="none of the new node 'c'"):
        one.with_node(Node(name="c"), [link("b", "a")])


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([link("a", "x")], "leads to 'x', which is not there"),
        ([link("a", "a")], "from a node to itself"),
        ([link("a", "b"), link("a", "b")], "is there twice"),
    ],
)
def test_a_bad_link_is_refused(links: list[Link], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        topology({"a": "none", "b": "none"}, links)


def test_devices_are_those_that_compute() -> None:
    one = preset("dgx-a100")
    assert len(one.devices) == 8
    assert one.devices["gpu0"] == find_device("a100-80gb")
