"""Importers on files of the form that the tools write, and one clear error for each way a file may be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.importers import nvidia_smi
from djinn_fx.hardware.importers.astra_sim import from_astra_sim, read_astra_sim
from djinn_fx.hardware.importers.nvidia_smi import from_nvidia_smi, read_matrix
from djinn_fx.hardware.importers.slurm import expand, from_slurm, read_slurm
from djinn_fx.hardware.topology.presets import preset
from djinn_fx.hardware.topology.topology import missing_way

SAMPLES = Path(__file__).parent / "samples"


def smi(name: str) -> str:
    return (SAMPLES / f"nvidia_smi_{name}.txt").read_text(encoding="utf-8")


def test_nvlinks_to_a_switch_are_told_from_links_to_each_peer() -> None:
    one = from_nvidia_smi(smi("h100_nvswitch"), "NVIDIA H100 80GB HBM3")
    found = one.transfer("gpu0", "gpu7", 10**9)
    assert found.route.nodes == ("gpu0", "nvswitch", "gpu7")
    assert found.time_s == preset("dgx-h100").transfer("gpu0", "gpu7", 10**9).time_s
    assert len(one.devices) == 8
    assert missing_way(one) is None


def test_a_card_on_a_gpus_own_switch_is_reached_without_the_root() -> None:
    one = from_nvidia_smi(smi("h100_nvswitch"), "h100-sxm", pcie="pcie5-x16")
    assert one.transfer("gpu3", "nic3", 10**6).route.nodes == ("gpu3", "pix3", "nic3")
    near, far = one.transfer("gpu3", "nic2", 10**6), one.transfer("gpu3", "nic5", 10**6)
    assert "numa0" in near.route.nodes
    assert "numa1" not in near.route.nodes
    assert far.route.nodes.index("numa0") < far.route.nodes.index("numa1")


def test_the_cube_mesh_of_v100_is_the_preset() -> None:
    one = from_nvidia_smi(smi("v100_mesh"), "Tesla V100-SXM2-32GB", pcie="pcie3-x16")
    other = preset("dgx-v100")
    for source in range(8):
        for target in set(range(8)) - {source}:
            ends = f"gpu{source}", f"gpu{target}"
            direct = [each for each in one.links_from(ends[0]) if each.target == ends[1]]
            same = [each for each in other.links_from(ends[0]) if each.target == ends[1]]
            assert [each.bandwidth_bytes_s for each in direct] == [each.bandwidth_bytes_s for each in same]


def test_pcie_levels_become_a_tree() -> None:
    one = from_nvidia_smi(smi("pcie"), "l40s")
    assert one.transfer("gpu0", "gpu1", 1).route.nodes == ("gpu0", "pix0", "gpu1")
    assert one.transfer("gpu0", "nic0", 1).route.nodes == ("gpu0", "pix0", "pxb0", "nic0")
    assert one.transfer("gpu0", "gpu2", 1).route.nodes == ("gpu0", "pix0", "pxb0", "root0", "numa0", "root1", "gpu2")
    assert {"numa0", "numa1"} < set(one.transfer("gpu0", "gpu3", 1).route.nodes)
    assert one.transfer("gpu3", "host", 1).route.nodes == ("gpu3", "root2", "numa1", "host")


def test_several_devices_and_a_matrix_of_one_gpu() -> None:
    alone = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t0-15\t0\t\tN/A\n"
    assert list(from_nvidia_smi(alone, ["h200"]).devices) == ["gpu0"]
    with pytest.raises(SettingsError, match="1 GPUs and 2 devices"):
        from_nvidia_smi(alone, ["h200", "l4"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no heading"),
        ("bash: nvidia-smi: command not found", "no heading"),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV4\n", "rows for GPU1 are missing"),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tFOO\t X \n", r":3: GPU1 to GPU0 is 'FOO'; known: X, NV#"),
        ("\tGPU0\tGPU1\nGPU0\tSYS\tNV4\nGPU1\tNV4\t X \n", r":2: GPU0 to GPU0 is 'SYS'"),
        ("\tGPU0\tGPU1\nGPU0\t X \n", r":2: row 'GPU0' does not fit"),
        ("\tGPU0\tGPU1\nGPU0\t X \tPIX\nGPU2\tPIX\t X \n", r":3: row 'GPU2' does not fit"),
    ],
)
def test_a_broken_matrix_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_matrix(text)


def test_nvlinks_of_an_unknown_generation_need_their_class() -> None:
    text = "\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tNV4\t X \n"
    with pytest.raises(SettingsError, match="which NVLink has t4"):
        from_nvidia_smi(text, "t4")
    assert from_nvidia_smi(text, "t4", nvlink="nvlink3").links_from("gpu0")[-1].kind == "nvlink3"


def test_a_machine_without_nvidia_smi_has_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_smi.shutil, "which", lambda _: None)
    assert list(nvidia_smi.this_machine().devices) == ["cpu"]


def test_this_machines_own_tool_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(command: list[str], **_: object) -> object:
        text = smi("pcie") if "topo" in command else "NVIDIA L40S\n" * 4
        return type("Done", (), {"stdout": text})

    monkeypatch.setattr(nvidia_smi.shutil, "which", lambda name: name)
    monkeypatch.setattr(nvidia_smi.subprocess, "run", answer)
    assert {name: row.name for name, row in nvidia_smi.this_machine().devices.items()} == {
        "host": "this-machine", "gpu0": "l40s", "gpu1": "l40s", "gpu2": "l40s", "gpu3": "l40s",
    }  # fmt: skip


def test_a_tree_of_switches_with_two_cores() -> None:
    one = read_slurm(SAMPLES / "slurm_tree.conf", "a100-80gb", "infiniband-hdr", devices=2)
    hosts = {name.split("/")[0] for name in one.devices}
    assert hosts == {*(f"gpu00{n}" for n in range(1, 8)), "login1", "big1x01", "big1x02", "big2x01", "big2x02"}
    same, other = one.transfer("gpu001", "gpu004", 10**6), one.transfer("gpu001", "big2x02", 10**6)
    assert same.route.nodes == ("gpu001", "ib01", "gpu004")
    assert other.route.nodes == ("gpu001", "ib01", "core1", "ib03", "big2x02")
    # A LinkSpeed with a unit is taken, a bare number is not.
    up = next(each for each in one.links_from("ib01") if each.target == "core1")
    down = next(each for each in one.links_from("ib01") if each.target == "gpu001")
    assert up.bandwidth_bytes_s == 2 * down.bandwidth_bytes_s


def test_blocks_are_joined_by_one_switch() -> None:
    one = read_slurm(SAMPLES / "slurm_block.conf", "h100-sxm", "infiniband-ndr")
    assert one.transfer("c01", "c03", 1).route.nodes == ("c01", "rack1", "c03")
    assert one.transfer("c01", "c04", 1).route.nodes == ("c01", "rack1", "blocks", "rack2", "c04")
    assert missing_way(one) is None


@pytest.mark.parametrize(
    ("short", "names"),
    [
        ("tux[0-3,12]", ["tux0", "tux1", "tux2", "tux3", "tux12"]),
        ("a[08-10],b", ["a08", "a09", "a10", "b"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("", []),
    ],
)
def test_host_lists_are_expanded(short: str, names: list[str]) -> None:
    assert expand(short) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are no nodes"),
        ("SwitchName=s Nodes=a[1-2", r":1: brackets in 'a\[1-2' do not match"),
        ("SwitchName=s Nodes=a[2-1]", r":1: '2-1' is no number"),
        ("\nSwitchName=s Node=a", r":2: 'Node', .*did you mean 'nodes'"),
        ("SwitchName=s", r":1: a line names a switch or block, and what is below it"),
        ("Nodes=a", r":1: a line names a switch or block"),
        ("SwitchName=s Nodes", r":1: 'Nodes' is not of the form Key=value"),
        ("SwitchName=s Switches=t,s0\nSwitchName=s0 Nodes=a", r":1: switch 't', which is not there"),
        ("SwitchName=s Nodes=a\nSwitchName=s Nodes=b", r":2: 's' is there twice; first in line 1"),
        ("SwitchName=s Nodes=a\nSwitchName=t Nodes=a", r":2: node 'a' is below 's' already"),
        ("SwitchName=s Switches=t\nSwitchName=t Switches=s", r":1: a switch is below itself: s -> t -> s"),
        ("SwitchName=s Nodes=a LinkSpeed=-4GB/s", r":1: LinkSpeed: cannot read '-4GB/s'"),
    ],
)
def test_a_broken_topology_conf_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        from_slurm(text, "h100-sxm", "infiniband-ndr")


def test_three_dimensions_of_an_astra_sim_network() -> None:
    one = read_astra_sim(SAMPLES / "astra_sim_3d.yml", "h100-sxm")
    assert len(one.devices) == 24
    # 2 x 3 x 4: rings of two are one link (12), meshes of three have three (8 of them), switches of four have four (6).
    assert len(one.links) == 2 * (12 + 8 * 3 + 6 * 4)
    ring, mesh, switch = (one.transfer("npu0", f"npu{step}", 10**9) for step in (1, 2, 6))
    gigabyte = 2**30
    assert ring.time_s == pytest.approx(50e-9 + 1e9 / (200 * gigabyte))
    assert mesh.time_s == pytest.approx(500e-9 + 1e9 / (100 * gigabyte))
    assert switch.time_s == pytest.approx(2 * 2000e-9 + 1e9 / (50 * gigabyte))
    assert len(switch.route.links) == 2


def test_an_astra_sim_network_in_json_and_one_of_version_1() -> None:
    one = read_astra_sim(SAMPLES / "astra_sim_hgx.json", "h100-sxm")
    assert len(one.devices) == 32
    around = one.transfer("npu0", "npu16", 10**6)
    assert [each.kind for each in around.route.links] == ["dimension1-ring"] * 2
    old = read_astra_sim(SAMPLES / "astra_sim_1.json", "a100-80gb")
    assert len(old.devices) == 8
    assert old.transfer("npu0", "npu2", 1).route.latency_s == pytest.approx(2 * 500e-9)
    assert missing_way(old) is None


NETWORK = "topology: [ {shape} ]\nnpus_count: [ {count} ]\nbandwidth: [ {rate} ]\nlatency: [ {late} ]\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "Torus"}, r"1:13: topology: expected one of Ring, FullyConnected, Switch, found 'Torus'"),
        ({"shape": "Ring, Ring"}, r"2:13: npus_count: 1 values for 2 dimensions"),
        ({"count": "0"}, r"2:15: npus_count: expected a whole number of at least 1, found 0"),
        ({"count": "100000"}, r"100000 NPUs are more than"),
        ({"rate": "-50"}, r"3:14: bandwidth: expected a number above 0, found -50"),
        ({"rate": "fast"}, r"3:14: bandwidth: expected a number above 0, found 'fast'"),
        ({"late": "-1"}, r"4:12: latency: expected a number of at least 0, found -1"),
        ({"late": ".inf"}, r"4:12: latency: expected"),
    ],
)
def test_a_broken_network_file_is_refused(change: dict[str, str], message: str) -> None:
    good = {"shape": "Ring", "count": "4", "rate": "50", "late": "500"}
    assert len(from_astra_sim(NETWORK.format(**good), "h100-sxm").devices) == 4
    with pytest.raises(SettingsError, match=message):
        from_astra_sim(NETWORK.format(**{**good, **change}), "h100-sxm")


def test_an_unknown_or_missing_key_of_a_network_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r"1:1: the network: unknown key 'topolgy'; did you mean 'topology'"):
        from_astra_sim("topolgy: [Ring]", "h100-sxm")
    with pytest.raises(SettingsError, match="there is no 'npus_count'"):
        from_astra_sim("topology: [Ring]", "h100-sxm")
    with pytest.raises(SettingsError, match="the file is empty"):
        from_astra_sim("", "h100-sxm")
