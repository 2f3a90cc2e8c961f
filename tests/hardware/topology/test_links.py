"""Link classes, laws of measured links, transfers that share a medium, and the units they are written in."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import SettingsError, UnitError
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.links import (
    SCHEMA,
    Link,
    LinkClass,
    find_link_class,
    link_classes,
    links_file,
    read_links,
)
from djinn_fx.hardware.topology.measured_links import measured_link
from djinn_fx.hardware.topology.presets import preset
from djinn_fx.hardware.topology.sharing import transfer_times
from djinn_fx.hardware.topology.topology import Topology
from djinn_fx.units import parse_bandwidth, parse_seconds
from tests.examples import examples

PLAIN = LinkClass(name="plain", kind="other", bandwidth_bytes_s=1e9, latency_s=1e-3, source="test")


def star(half_duplex: bool = False, **rates: float) -> Topology:
    """Nodes around one switch, each at a rate of its own; latency 1 ms a link."""
    build = TopologyBuilder("star")
    build.switch("s")
    cls = LinkClass(
        name="x", kind="other", bandwidth_bytes_s=1e9, latency_s=1e-3, half_duplex=half_duplex, source="test"
    )
    for name, rate in rates.items():
        build.switch(name)
        build.connect(name, "s", cls, bandwidth_bytes_s=rate)
    return build.build()


@pytest.mark.parametrize("name", sorted(link_classes()))
def test_classes_are_sourced_and_plausible(name: str) -> None:
    one = find_link_class(name)
    assert "://" in one.source
    assert 1e8 < one.bandwidth_bytes_s < 1e12
    assert 0 < one.latency_s < 1e-4
    assert 0 < one.efficiency <= 1
    assert one.serialised == (one.kind in ("ethernet", "loopback"))


def test_a_class_that_is_not_there_has_a_nearest() -> None:
    with pytest.raises(SettingsError, match="no link class 'NVLink-4'; did you mean 'nvlink4'"):
        find_link_class("NVLink-4")


ROW: dict[str, Any] = {"kind": "pcie", "bandwidth": "1 GB/s", "latency": "1us", "source": "https://example.com"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth": 5}, "TypeError"),
        ({"bandwidth": "5"}, "UnitError"),
        ({"latency": "5"}, "UnitError"),
        ({"efficiency": 0}, r"efficiency 0.0 is not in \(0, 1\]"),
        ({"source": ""}, "source is empty"),
        ({"duplex": "both"}, "KeyError: 'both'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "links.yaml"
    cost = {"rate": "1 GB/s", "fixed": "1us", "source": "x"}
    file.write_text(yaml.safe_dump({"schema": SCHEMA, "classes": {"x": {**ROW, **change}}, "serialisation": cost}))
    with pytest.raises(SettingsError, match=f"link class 'x': .*{message}"):
        read_links(file)
    file.write_text("schema: other/1")
    with pytest.raises(SettingsError, match=f"expected schema '{SCHEMA}'"):
        read_links(file)


def test_the_data_file_is_found() -> None:
    assert links_file().is_file()


@pytest.mark.parametrize(
    ("text", "rate"),
    [("450 GB/s", 450e9), ("100 Gbit/s", 12.5e9), ("64GiB/s", 64 * 2**30), ("1.5 Mbit/s", 187_500), ("8 bit/s", 1.0)],
)
def test_bandwidths_are_read(text: str, rate: float) -> None:
    assert parse_bandwidth(text) == rate


@pytest.mark.parametrize("text", ["450", "450 GB", "-1 GB/s", "1 Gb/s", "1 Gbps", "0 GB/s", "GB/s", ""])
def test_a_bandwidth_without_a_clear_unit_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        parse_bandwidth(text)


def test_short_times_and_rates_in_bits_are_read() -> None:
    assert (parse_seconds("5us"), parse_seconds("300 ns")) == (pytest.approx(5e-6), pytest.approx(3e-7))
    assert parse_bandwidth("100 Gbit/s") == 12.5e9


def measured(samples: list[tuple[int, float]]) -> Link:
    build = TopologyBuilder("t")
    build.switch("a"), build.switch("b")
    return measured_link(build.connect("a", "b", PLAIN, one_way=True)[0], samples)


def test_a_measured_link_gives_back_its_medians_and_lies_between_them() -> None:
    link = measured([(1, 1e-5), (1000, 1.1e-5), (1000, 1.3e-5), (1000, 1.2e-5), (10**6, 1.01e-3), (2 * 10**6, 2.01e-3)])
    assert link.provenance == "measured"
    assert link.latency_s + link.stream_s(1000) == pytest.approx(1.2e-5)
    assert link.latency_s + link.stream_s(10**6) == pytest.approx(1.01e-3)
    assert link.stream_s(500_500) == pytest.approx((link.stream_s(1000) + link.stream_s(10**6)) / 2)
    assert link.latency_s + link.stream_s(3 * 10**6) == pytest.approx(3.01e-3)


def test_a_measured_links_time_never_falls_with_the_size() -> None:
    link = measured([(1, 2e-5), (100, 1e-5), (10_000, 3e-5), (20_000, 2.5e-5)])
    times = [link.stream_s(size) for size in range(0, 40_000, 500)]
    assert times == sorted(times)
    assert min(times) >= 0


def test_the_interval_of_a_measured_link_covers_four_fifths() -> None:
    numbers = random.Random(0)
    samples = [(size, size * 1e-8 * numbers.lognormvariate(0, 0.1)) for size in (10**5, 10**6) for _ in range(500)]
    link = measured(samples)
    low, high = link.interval
    fresh = [numbers.lognormvariate(0, 0.1) for _ in range(2000)]
    assert 0.77 < sum(low <= each <= high for each in fresh) / len(fresh) < 0.83


@pytest.mark.parametrize("samples", [[], [(1, 1e-5)], [(1, 1e-5), (2, 0.0)], [(1, 1e-5), (-2, 1.0)]])
def test_a_law_needs_two_sizes_and_times(samples: list[tuple[int, float]]) -> None:
    with pytest.raises(ValueError):
        measured(samples)


def test_two_transfers_over_one_link_take_twice_as_long() -> None:
    one = star(a=1e9, b=1e9, c=1e9)
    assert transfer_times(one, [("a", "b", 10**9), ("a", "c", 10**9)]) == pytest.approx((2.002, 2.002))


def test_who_has_arrived_leaves_the_link_to_the_others() -> None:
    one = star(a=1e9, b=1e9, c=1e9)
    # Half the rate each for one second; then the larger has all of it for its last half.
    assert transfer_times(one, [("a", "b", 500_000_000), ("a", "c", 10**9)]) == pytest.approx((1.002, 1.502))


def test_a_transfer_held_back_elsewhere_leaves_more_to_the_other() -> None:
    one = star(a=1e9, b=1e8, c=1e9)
    # b takes 0.1 of a's link for 10 s; the other streams at 0.9 until it is done.
    assert transfer_times(one, [("a", "b", 10**9), ("a", "c", 9 * 10**8)]) == pytest.approx((10.002, 1.002))


def test_directions_share_a_half_duplex_link_only() -> None:
    both = [("a", "b", 10**9), ("b", "a", 10**9)]
    assert transfer_times(star(a=1e9, b=1e9), both) == pytest.approx((1.002, 1.002))
    assert transfer_times(star(True, a=1e9, b=1e9), both) == pytest.approx((2.002, 2.002))


def test_transfers_of_nothing_and_no_transfers() -> None:
    one = star(a=1e9, b=1e9, c=1e9)
    assert transfer_times(one, []) == ()
    assert transfer_times(one, [("a", "b", 0), ("a", "a", 10**9)]) == pytest.approx((0.002, 0.0))


@pytest.mark.parametrize("name", ["dgx-h100", "dgx-v100", "two-node-ethernet", "four-l4"])
@pytest.mark.parametrize("nbytes", [0, 1, 10**6, 10**9])
def test_alone_a_transfer_takes_what_the_topology_says(name: str, nbytes: int) -> None:
    one = preset(name, 2, "ethernet-10g")
    first, *_, last = one.devices
    assert transfer_times(one, [(first, last, nbytes)])[0] == pytest.approx(one.transfer(first, last, nbytes).time_s)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(1, 10**9)), min_size=1, max_size=6)
)
@examples(60)
def test_no_medium_carries_more_than_it_can_and_company_never_helps(transfers: list[tuple[str, str, int]]) -> None:
    one = star(a=1e9, b=3e8, c=1e8)
    times = transfer_times(one, transfers)
    for (source, target, nbytes), seconds in zip(transfers, times, strict=True):
        assert seconds >= one.transfer(source, target, nbytes).time_s * (1 - 1e-9)
    for name, rate in (("a", 1e9), ("b", 3e8), ("c", 1e8)):
        sent = [(n, t) for (source, target, n), t in zip(transfers, times, strict=True) if name == source != target]
        if sent:
            assert max(t for _, t in sent) >= sum(n for n, _ in sent) / rate * (1 - 1e-9)
