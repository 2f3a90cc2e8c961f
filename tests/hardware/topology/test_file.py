"""The topology section of djinn.yaml: what it means, and one clear error with its place for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.topology.file import read_topology, topology_from_yaml
from djinn_fx.hardware.topology.links import default_serialisation, find_link_class
from djinn_fx.hardware.topology.presets import PRESETS, preset
from djinn_fx.hardware.topology.topology import Topology

GOOD = """\
engine: auto
topology:
  name: lab
  classes:
    slow-nvlink: {like: nvlink3, efficiency: 0.5}
    wire: {bandwidth: 10 Gbit/s, latency: 30us, duplex: half, serialised: true, kind: ethernet}
  aliases: {trainer: box, box: alpha/gpu0}
  hosts:
    alpha: {cpu: this-machine, devices: {gpu0: a100-80gb, gpu1: a100-80gb}, serialise: 8 GB/s}
    beta: {like: alpha, cpu: xeon-8480}
  switches: [tor]
  links:
    - {between: [trainer, alpha/gpu1], class: slow-nvlink, lanes: 4}
    - {between: [alpha/gpu0, alpha], class: pcie4-x16}
    - {between: [alpha/gpu1, alpha], class: pcie4-x16, medium: slot}
    - {between: [beta/gpu0, beta], class: pcie4-x16}
    - {between: [beta/gpu1, beta], class: pcie4-x16}
    - {between: [alpha, tor], class: wire}
    - {between: [beta, tor], bandwidth: 100 Mbit/s, latency: 1ms, back: {bandwidth: 10 Mbit/s, latency: 2ms}}
"""


@pytest.fixture
def lab() -> Topology:
    return topology_from_yaml(GOOD)


def test_the_section_is_read(lab: Topology) -> None:
    assert lab.name == "lab"
    assert list(lab.devices) == ["alpha", "alpha/gpu0", "alpha/gpu1", "beta", "beta/gpu0", "beta/gpu1"]
    assert lab.devices["beta"].name == "xeon-8480"
    bonded = lab.links_from("alpha/gpu0")[0]
    assert (bonded.target, bonded.kind) == ("alpha/gpu1", "slow-nvlink")
    assert bonded.bandwidth_bytes_s == pytest.approx(4 * 25e9 * 0.5)


def test_a_link_has_its_own_way_back(lab: Topology) -> None:
    there, back = lab.links_from("beta")[-1], lab.links_to("beta")[-1]
    assert (there.bandwidth_bytes_s, there.latency_s) == (100e6 / 8, 1e-3)
    assert (back.bandwidth_bytes_s, back.latency_s) == (10e6 / 8, 2e-3)


def test_a_half_duplex_class_shares_one_medium(lab: Topology) -> None:
    assert lab.links_from("tor")[0].medium == lab.links_from("alpha")[-1].medium


def test_a_transfer_to_another_host_is_staged_and_serialised(lab: Topology) -> None:
    nbytes = 10_000_000
    found = lab.transfer("alpha/gpu0", "beta/gpu1", nbytes)
    assert found.route.nodes == ("alpha/gpu0", "alpha", "tor", "beta", "beta/gpu1")
    pcie = find_link_class("pcie4-x16")
    copy_s = pcie.latency_s + nbytes / (pcie.bandwidth_bytes_s * pcie.efficiency)
    wire_s = 30e-6 + 2e-3 + nbytes / (10e6 / 8)
    messages_s = 2 * (default_serialisation().fixed_s + nbytes / 8e9)
    assert found.serialise_s == pytest.approx(messages_s)
    assert found.time_s == pytest.approx(2 * copy_s + wire_s + messages_s)
    assert found.bottleneck is not None
    assert found.bottleneck.name == "tor->beta"
    assert found.low_s < found.time_s < found.high_s


def test_within_a_host_nothing_is_serialised(lab: Topology) -> None:
    assert lab.transfer("alpha/gpu0", "alpha/gpu1", 10**6).serialise_s == 0


def test_the_fields_of_a_file_are_found_and_missing_files_said(tmp_path: Path) -> None:
    (tmp_path / "djinn.yaml").write_text(GOOD, encoding="utf-8")
    assert read_topology(tmp_path / "djinn.yaml").name == "lab"
    with pytest.raises(SettingsError, match=r"none\.yaml"):
        read_topology(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_preset_is_whole_and_joins_with_its_like(name: str) -> None:
    one = topology_from_yaml(f"topology: {{preset: {name}}}")
    assert one.nodes == preset(name).nodes
    two = topology_from_yaml(f"topology: {{preset: {name}, count: 2, fabric: infiniband-ndr}}")
    assert len(two.devices) == 2 * len(one.devices)
    nearest = next(iter(one.devices))
    found = two.transfer(f"0/{nearest}", f"1/{nearest}", 10**9)
    assert "fabric" in found.route.nodes


def test_rdma_between_dgx_passes_no_host_memory() -> None:
    route = preset("dgx-h100", 2).transfer("0/gpu0", "1/gpu0", 10**9).route
    assert "0/host" not in route.nodes
    assert not route.serialised
    assert len(route.segments) == 1


def test_a_preset_may_be_extended() -> None:
    text = """
topology:
  preset: dgx-a100
  hosts: {desk: {cpu: this-machine}}
  links:
    - {between: [host, desk], class: ethernet-1g}
"""
    assert topology_from_yaml(text).transfer("desk", "gpu0", 1).route.serialised


def test_a_link_may_say_what_was_measured_on_it() -> None:
    pairs = "[1B, 20us], [1MB, 1ms], [1MB, 1.2ms], [1MB, 1.1ms], [10MB, 9ms]"
    text = HOSTS % f"between: [a, b], class: loopback, measured: [{pairs}]"
    found = topology_from_yaml(text).transfer("a", "b", 10**6)
    assert found.time_s - found.serialise_s == pytest.approx(1.1e-3)
    assert found.provenance == "measured"


BAD = [
    ("topology: {pre: dgx-h100}", r"1:12: topology: unknown key 'pre'; did you mean 'preset'"),
    ("topology: {preset: dgx-h10}", r"1:20: no preset 'dgx-h10'; did you mean 'dgx-h100'"),
    ("topology: {preset: dgx-h100, count: 0}", r"1:37: count: expected a whole number of at least 1, found 0"),
    ("topology: {count: 2}", r"1:12: 'count' says something of a preset"),
    ("topology: {preset: four-l4, count: 2, fabric: ether}", r"1:20: no link class 'ether'"),
    ("topology: {}", r"1:11: no devices"),
    ("topology:", r"1:10: topology: expected keys and values, found nothing"),
    ("engine: auto", r"there is no section 'topology'"),
    ("", r"there is no section 'topology'"),
    ("topology: {hosts: [", r"1:20: "),
    ("topology: {preset: a, preset: b}", r"1:23: the key 'preset' is there twice"),
    ("topology: {1: a}", r"1:12: the key 1 is no text"),
    ("topology: &t {hosts: *t}", r"1:11: a cycle of aliases: this value contains itself"),
    ("topology: {hosts: {a: {cpu: h10}}}", r"1:29: no device 'h10' in the catalogue"),
    ("topology: {hosts: {a: {devices: {g: h100-sx}}}}", r"1:37: no device 'h100-sx' .*did you mean 'h100-sxm'"),
    ("topology: {hosts: {a: {like: b}, b: {like: a}}}", r"1:23: a cycle of aliases: a -> b -> a"),
    ("topology: {hosts: {a: {like: c}}}", r"1:30: host a: like 'c', which is not there"),
    ("topology: {hosts: {a: {cpu: this-machine}}, aliases: {x: y, y: z, z: x}}", r"cycle of aliases: x -> y -> z -> x"),
    ("topology: {hosts: {a: {cpu: this-machine}}, aliases: {x: b}}", r"alias 'x' stands for 'b', which is not there"),
    ("topology: {hosts: {a: {cpu: this-machine}}, aliases: {a: a}}", r"alias 'a': a node has that name"),
    ("topology: {hosts: {a: {cpu: this-machine, serialise: 3}}}", r"1:54: serialise: 3 has no unit"),
    ("topology: {classes: {c: {like: d}, d: {like: c}}}", r"a cycle of aliases: c -> d -> c"),
    ("topology: {classes: {c: {like: nvlink9}}}", r"1:32: no link class 'nvlink9'; did you mean 'nvlink"),
    ("topology: {classes: {c: {bandwidth: 1 GB/s}}}", r"1:25: class c: say its 'latency'"),
    ("topology: {classes: {c: {like: nvlink4, efficiency: 1.5}}}", r"1:53: efficiency: expected a share"),
    ("topology: {classes: {c: {like: nvlink4, duplex: both}}}", r"1:49: duplex: expected 'full' or 'half'"),
    ("topology: {hosts: {a: {cpu: this-machine}}, switches: [a]}", r"1:56: .*two nodes are called 'a'"),
    ("topology: {switches: {s: {forwarding: none}}}", r"1:39: forwarding: expected 'cut-through' or"),
]  # fmt: skip

HOSTS = "topology: {hosts: {a: {cpu: this-machine}, b: {cpu: this-machine}}, links: [{%s}]}"

BAD_LINKS = [
    ("between: [a, b], bandwith: 1 GB/s", r"1:95: links\[0\]: unknown key 'bandwith'; did you mean 'bandwidth'"),
    ("between: [a, c], class: upi", r"1:91: the link leads to 'c', which is not there"),
    ("between: [a, b, a], class: upi", r"'between' has two ends"),
    ("from: a, class: upi", r"say 'between: \[one, other\]', or 'from' and 'to'"),
    ("from: a, to: b, class: upi", r"no way from 'b' to 'a': a link is missing"),
    ("from: a, to: b, class: upi, back: {latency: 1us}", r"'back' belongs to 'between'"),
    ("between: [a, b], class: pcie", r"no link class 'pcie', which is not there; did you mean 'pcie"),
    ("between: [a, b], class: upi, lanes: 1.5", r"lanes: expected a whole number of at least 1"),
    ("between: [a, b]", r"say its 'bandwidth', or its 'class'"),
    ("between: [a, b], bandwidth: 5, latency: 1us", r"bandwidth: 5 has no unit; write it as in '450 GB/s'"),
    ("between: [a, b], bandwidth: -5 GB/s, latency: 1us", r"bandwidth: '-5 GB/s' is negative"),
    ("between: [a, b], bandwidth: 5 Gb/s, latency: 1us", r"cannot read '5 Gb/s' as a bandwidth"),
    ("between: [a, b], bandwidth: 0 GB/s, latency: 1us", r"would move nothing"),
    ("between: [a, b], bandwidth: 5 GB/s, latency: 0.1", r"latency: 0.1 has no unit; write it as in '5us'"),
    ("between: [a, b], measured: [[1B, 1us]]", r"1:105: links\[0\]: measured: times of two sizes or more"),
    ("between: [a, b], measured: [[1B, 1us], [5, 1us]]", r"size: 5 has no unit; write it as in '64MB'"),
    ("between: [a, b], measured: [[1B]]", r"expected a size and a time"),
    ("between: [a, a], class: upi", r"from a node to itself"),
    ("between: [a, b], class: upi, serialised: 1", r"serialised: expected true or false, found 1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [*BAD, *((HOSTS % link, message) for link, message in BAD_LINKS)])
def test_a_mistake_is_one_error_with_its_place(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        topology_from_yaml(text, "djinn.yaml")
    assert str(caught.value).startswith("djinn.yaml")


def test_nested_aliases_are_read_once_each() -> None:
    levels = ["  l0: &l0 [x, x]"] + [f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 60)]
    with pytest.raises(SettingsError, match="unknown key 'l0'"):
        topology_from_yaml("topology:\n" + "\n".join(levels))


def test_a_missing_link_names_both_devices_where_the_second_is_written() -> None:
    text = "topology:\n  hosts:\n    a: {cpu: this-machine}\n    b: {cpu: this-machine}\n"
    with pytest.raises(SettingsError, match=r"djinn\.yaml:4:8: no way from 'a' to 'b'"):
        topology_from_yaml(text)
