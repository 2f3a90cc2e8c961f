"""Devices made of this machine's processors: their rows, and what lies between them."""

from __future__ import annotations

import pytest

from djinn_fx.hardware.device import this_machine
from djinn_fx.hardware.local import HANDOFF_S, device_row, local_topology
from djinn_fx.hardware.machine import probe_machine
from djinn_fx.settings.devices import DeclaredLink, LocalDevice

ONE = LocalDevice(name="cpu:0", cores=(0,), memory_bytes=4_000)
OTHER = LocalDevice(name="cpu:1", cores=(1,))
THIRD = LocalDevice(name="cpu:2", cores=(2,))


def test_a_device_has_its_share_of_the_machine_and_the_memory_it_was_given() -> None:
    whole, row = this_machine(), device_row(ONE, this_machine())
    assert row.name == "cpu:0"
    assert row.peak("float32") == pytest.approx(whole.peak("float32") / probe_machine().threads)
    assert row.bandwidth_bytes_s == pytest.approx(whole.bandwidth_bytes_s / probe_machine().threads)
    assert row.memory_bytes == 4_000
    assert device_row(OTHER, whole).memory_bytes == whole.memory_bytes


def test_values_are_handed_over_at_once_but_over_a_declared_link() -> None:
    link = DeclaredLink(ends=("cpu:1", "cpu:0"), bandwidth_bytes_s=1e9, latency_s=1e-3)
    topology = local_topology([ONE, OTHER, THIRD], [link], this_machine())
    assert set(topology.devices) == {"cpu:0", "cpu:1", "cpu:2"}
    for ends in (("cpu:0", "cpu:1"), ("cpu:1", "cpu:0")):
        assert topology.transfer(*ends, 1_000_000).time_s == pytest.approx(HANDOFF_S + 1e-3 + 1e-3)
    assert topology.transfer("cpu:0", "cpu:2", 1_000_000).time_s == pytest.approx(HANDOFF_S)
