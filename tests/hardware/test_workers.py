"""Workers as a topology: what is written into a file says the same as what the placement uses."""

from __future__ import annotations

import pytest

from djinn_fx.hardware.device import this_machine
from djinn_fx.hardware.topology.file import topology_from_yaml
from djinn_fx.hardware.workers import WorkerLink, pair_links, topology_text, worker_topology

LINKS = {
    f"worker:{n}": WorkerLink(latency_s=late, bandwidth_bytes_s=rate, source="measured")
    for n, (late, rate) in enumerate([(1e-3, 2e9), (3e-3, 1e9), (2e-3, 0.5e9)])
}


def test_of_two_workers_the_slower_link_counts() -> None:
    pairs = {(one, other): (link.latency_s, link.bandwidth_bytes_s) for one, other, link in pair_links(LINKS)}
    assert pairs == {
        ("worker:0", "worker:1"): (3e-3, 1e9),
        ("worker:0", "worker:2"): (2e-3, 0.5e9),
        ("worker:1", "worker:2"): (3e-3, 0.5e9),
    }


def test_a_file_that_is_read_again_gives_the_placements_times() -> None:
    read = topology_from_yaml(topology_text(LINKS))
    used = worker_topology(dict.fromkeys(LINKS, this_machine()), LINKS)
    assert set(read.devices) == set(LINKS)
    for one in LINKS:
        for other in set(LINKS) - {one}:
            for nbytes in (1, 10**5, 10**8):
                want = used.transfer(one, other, nbytes).time_s
                assert read.transfer(one, other, nbytes).time_s == pytest.approx(want, rel=1e-3)


def test_it_has_the_bound_of_each_and_one_alone_has_no_links() -> None:
    bounded = topology_from_yaml(topology_text(LINKS, 5_000_000))
    assert {row.memory_bytes for row in bounded.devices.values()} == {5_000_000}
    alone = topology_from_yaml(topology_text({"worker:0": LINKS["worker:0"]}))
    assert list(alone.devices) == ["worker:0"]
    assert not alone.links


def test_of_those_that_are_lost_links_are_not_used() -> None:
    left = worker_topology({name: this_machine() for name in LINKS if name != "worker:0"}, LINKS)
    assert set(left.devices) == {"worker:1", "worker:2"}
    assert {link.source for link in left.links} == {"worker:1", "worker:2"}
