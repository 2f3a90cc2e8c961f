"""Well-known machines by name. Imports no torch.

How a machine is wired is the vendor's; figures are those of the link classes in ``costmodels/data/links.yaml``. GPUs
hang by PCIe on a root of their socket, network cards beside them, so that RDMA passes from card to GPU without touching
host memory. Sockets are joined by one link of UPI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from djinn_fx.errors import SettingsError, did_you_mean
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.topology import Topology


def preset(name: str, count: int = 1, fabric: str | None = None) -> Topology:
    """A well-known machine, or several of them around one switch.

    Args:
        name: see :data:`PRESETS`.
        count: how many; from 2 on, nodes are called ``0/gpu0``, ``1/gpu0``, …
        fabric: link class between each network card (or host without one) and the switch; None: the preset's own.

    Raises:
        SettingsError: no such preset, a count below 1, or no fabric for machines without network cards.
    """
    if name not in PRESETS:
        hint = did_you_mean(name.lower(), PRESETS, ".", cutoff=0.4)
        raise SettingsError(f"no preset {name!r}{hint} Known: {', '.join(PRESETS)}")
    if count < 1:
        raise SettingsError(f"preset {name!r}: a count of {count}")
    one, own_fabric = PRESETS[name]
    return one() if count == 1 and fabric is None else several(name, one(), count, fabric or own_fabric)


def several(name: str, one: Topology, count: int, fabric: str | None) -> Topology:
    """Copies of a machine, their network cards (or hosts, where there are none) around one switch.

    Raises:
        SettingsError: no link class is given.
    """
    if fabric is None:
        raise SettingsError(f"{name}: say by which link class {count} of them are joined, such as 'ethernet-100g'")
    build = TopologyBuilder(f"{count} x {name}", one.source)
    spine = build.switch("fabric")
    cards = [node for node in one.nodes if node.startswith("nic")]
    ends = cards or [node.name for node in one.nodes.values() if node.host == node.name]
    for number in range(count):
        build.include(one, str(number))
        for end in ends:
            build.connect(f"{number}/{end}", spine, fabric)
    return build.build()


def gpu_server(
    name: str, gpu: str, count: int, *, pcie: str, nvlink: str | None, lanes: int = 1, cards: int = 0, source: str
) -> Topology:
    """A host of two sockets with GPUs, each with its PCIe link to the root of its socket.

    Args:
        gpu: catalogue row.
        pcie: link class of GPUs and network cards.
        nvlink: link class to NVSwitch; None: GPUs reach each other by PCIe only.
        lanes: NVLinks a GPU.
        cards: network cards, spread over the sockets.
    """
    build = TopologyBuilder(name, source)
    host = build.host("host")
    roots = [build.switch(f"root{socket}", host) for socket in range(2)]
    for root in roots:
        build.connect(host, root, "cpu-memory")
    build.connect(roots[0], roots[1], "upi")
    fabric = build.switch("nvswitch", host) if nvlink else None
    for number in range(count):
        node = build.device(f"gpu{number}", find_device(gpu), host)
        build.connect(node, roots[number * 2 // count], pcie)
        if fabric is not None and nvlink is not None:
            build.connect(node, fabric, nvlink, lanes=lanes)
    for number in range(cards):
        build.connect(build.switch(f"nic{number}", host), roots[number * 2 // cards], pcie)
    return build.build()


def dgx_v100() -> Topology:
    """DGX-1 with V100: eight GPUs in a hybrid mesh of cubes, no switch; a pair has two links, one or none."""
    source = "https://images.nvidia.com/content/pdf/dgx1-v100-system-architecture-whitepaper.pdf"
    plain = gpu_server("dgx-v100", "v100", 8, pcie="pcie3-x16", nvlink=None, cards=4, source=source)
    build = TopologyBuilder("dgx-v100", source)
    build.nodes.update(plain.nodes)
    build.adopt(plain.links)
    twice = [(0, 3), (0, 4), (1, 2), (1, 5), (2, 3), (4, 7), (5, 6), (6, 7)]
    once = [(0, 1), (0, 2), (1, 3), (2, 6), (3, 7), (4, 5), (4, 6), (5, 7)]
    for lanes, pairs in ((2, twice), (1, once)):
        for one, other in pairs:
            build.connect(f"gpu{one}", f"gpu{other}", "nvlink2", lanes=lanes)
    return build.build()


def two_hosts(ethernet: str) -> Topology:
    """Two machines like this one, each with its processors only, around an Ethernet switch."""
    build = TopologyBuilder(f"two-node-{ethernet}", "two of this machine; " + find_device("this-machine").source)
    switch = build.switch("switch")
    for name in ("host0", "host1"):
        build.connect(build.host(name, find_device("this-machine")), switch, ethernet)
    return build.build()


def this_machine() -> Topology:
    """This machine's processors; :func:`djinn_fx.hardware.importers.nvidia_smi.this_machine` adds its GPUs."""
    build = TopologyBuilder("this-machine", "this machine")
    build.host("cpu", find_device("this-machine"))
    return build.build()


def _nvswitch(name: str, gpu: str, pcie: str, nvlink: str, lanes: int, cards: int, url: str) -> Callable[[], Topology]:
    return lambda: gpu_server(name, gpu, 8, pcie=pcie, nvlink=nvlink, lanes=lanes, cards=cards, source=url)


_DGX = "https://docs.nvidia.com/dgx/"
_AWS = "https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html"

#: By name: what makes one machine, and the fabric between several.
PRESETS: Mapping[str, tuple[Callable[[], Topology], str | None]] = MappingProxyType(
    {
        "this-machine": (this_machine, None),
        "dgx-v100": (dgx_v100, "infiniband-edr"),
        "dgx-a100": (
            _nvswitch("dgx-a100", "a100-80gb", "pcie4-x16", "nvlink3", 12, 8, _DGX + "dgxa100-user-guide/"),
            "infiniband-hdr",
        ),
        "dgx-h100": (
            _nvswitch("dgx-h100", "h100-sxm", "pcie5-x16", "nvlink4", 18, 8, _DGX + "dgxh100-user-guide/"),
            "infiniband-ndr",
        ),
        "dgx-h200": (
            _nvswitch("dgx-h200", "h200", "pcie5-x16", "nvlink4", 18, 8, _DGX + "dgxh100-user-guide/"),
            "infiniband-ndr",
        ),
        "dgx-b200": (
            _nvswitch("dgx-b200", "b200", "pcie5-x16", "nvlink5", 18, 8, _DGX + "dgxb200-user-guide/"),
            "infiniband-ndr",
        ),
        "p4d": (_nvswitch("p4d", "a100-40gb", "pcie4-x16", "nvlink3", 12, 4, _AWS), "efa-100g"),
        "four-l4": (
            lambda: gpu_server(
                "four-l4", "l4", 4, pcie="pcie4-x16", nvlink=None, source="https://www.nvidia.com/en-us/data-center/l4/"
            ),
            "ethernet-100g",
        ),
        "two-node-ethernet": (lambda: two_hosts("ethernet-10g"), None),
    }
)
