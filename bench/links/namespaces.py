"""Network namespaces with Ethernet pairs between them, shaped by tc: links of known rates. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

#: Rates that tc gives the pairs, in bytes per second: there, back. Its bucket holds two frames: little passes free.
NEAR, FAR = (400e6 / 8, 100e6 / 8), (150e6 / 8, 300e6 / 8)


@contextlib.contextmanager
def namespaces() -> Iterator[dict[str, list[str]] | None]:
    """Three network namespaces a - r - b with shaped pairs between; None where they cannot be made."""
    tag = f"dj{os.getpid() % 10000}"
    names = {one: f"{tag}{one}" for one in "arb"}
    made = True
    try:
        for line in _setup(tag, names):
            subprocess.run(line.split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no network namespaces here, those links are left out: {error}")
        made = False
    try:
        yield {one: ["ip", "netns", "exec", name] for one, name in names.items()} if made else None
    finally:
        for name in names.values():
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _setup(tag: str, names: dict[str, str]) -> list[str]:
    lines = [f"ip netns add {name}" for name in names.values()]
    for one, other, net, rates in (("a", "r", 1, NEAR), ("r", "b", 2, FAR)):
        left, right = f"{tag}{one}{net}", f"{tag}{other}{net}"
        lines.append(f"ip link add {left} netns {names[one]} type veth peer name {right} netns {names[other]}")
        for side, end, last, rate in ((one, left, 1, rates[0]), (other, right, 2, rates[1])):
            inside = f"ip netns exec {names[side]}"
            lines += [
                f"{inside} ip addr add 10.77.{net}.{last}/24 dev {end}",
                f"{inside} ip link set {end} up",
                f"{inside} ip link set lo up",
                f"{inside} tc qdisc add dev {end} root tbf rate {int(rate * 8)} burst 3kb limit 8mb",
            ]
    return [
        *lines,
        f"ip netns exec {names['r']} sysctl -q -w net.ipv4.ip_forward=1",
        f"ip netns exec {names['a']} ip route add default via 10.77.1.2",
        f"ip netns exec {names['b']} ip route add default via 10.77.2.1",
    ]
