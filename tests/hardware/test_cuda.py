"""CUDA devices as a topology: peers by the link of their sort, others through the host's memory."""

from __future__ import annotations

import pytest

from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.cuda import HOST, cuda_topology, wiring_of
from djinn_fx.hardware.topology.links import find_link_class

SIZE = 1 << 30


def test_peers_have_the_link_of_their_sort_and_others_pass_through_the_host() -> None:
    h100, l4 = find_device("h100-sxm"), find_device("l4")
    nvlink, pcie = find_link_class("nvlink4"), find_link_class("pcie4-x16")
    found = cuda_topology({"cuda:0": h100, "cuda:1": h100, "cuda:2": l4}, lambda *ends: "cuda:2" not in ends)
    direct = found.transfer("cuda:0", "cuda:1", SIZE)
    assert direct.route.nodes == ("cuda:0", "cuda:1")
    wanted = SIZE / (18 * nvlink.bandwidth_bytes_s * nvlink.efficiency)
    assert direct.time_s == pytest.approx(wanted, rel=1e-2)
    assert direct.provenance == "datasheet"
    staged = found.transfer("cuda:0", "cuda:2", SIZE)
    assert staged.route.nodes == ("cuda:0", HOST, "cuda:2")
    assert staged.time_s > SIZE / (pcie.bandwidth_bytes_s * pcie.efficiency)
    assert "dgx-h100" in found.source
    assert "four-l4" in found.source


def test_one_that_cannot_read_back_is_no_peer() -> None:
    row = find_device("h100-sxm")
    found = cuda_topology({"cuda:0": row, "cuda:1": row}, lambda one, other: one == "cuda:0")
    assert found.transfer("cuda:1", "cuda:0", SIZE).route.nodes == ("cuda:1", HOST, "cuda:0")


def test_a_sort_of_gpu_that_no_known_machine_has_hangs_by_pcie() -> None:
    assert wiring_of("no such row").peer is find_link_class("pcie4-x16")
