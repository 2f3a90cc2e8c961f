"""Transfer times predicted by a topology, against transfers on real links.

    python bench/links/links.py --json bench/results/links.json

Links: a copy in memory; TCP to another process on this host; and, where network namespaces can be made (root,
iproute2), Ethernet pairs shaped by tc to known rates, different in each direction, one after another over a router.
Each link is timed at some sizes; from these the topology predicts other sizes, both ends' serialising, ways over two
links, and several transfers at once. Predictions are written, and their hash printed, before any of those is timed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, table
from bench.links.links_child import MESSAGE, PLAIN, RELAY
from bench.links.namespaces import FAR, NEAR, namespaces
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.links import MEASURED, LinkClass, Serialisation, find_link_class, make_link
from djinn_fx.hardware.topology.measured_links import measured_link
from djinn_fx.hardware.topology.sharing import transfer_times
from djinn_fx.hardware.topology.topology import Topology

ROOT = Path(__file__).resolve().parents[2]
#: Who listens at an address.
LISTENERS = {"127.0.0.1": "host", "10.77.1.1": "a", "10.77.1.2": "r", "10.77.2.1": "r", "10.77.2.2": "b"}
KNOWN = (1, 1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000, 4_000_000)
ASKED = (2_000, 8_000, 40_000, 120_000, 500_000, 2_000_000, 6_000_000)
LARGE_KNOWN, LARGE_ASKED = (*KNOWN, 16_000_000, 48_000_000), (*ASKED, 24_000_000, 36_000_000)

#: Everything is timed in so many turns, so that a machine that slows down for a while does not spoil one figure.
ROUNDS = 3


class Timed(NamedTuple):
    """A link that is timed: its ends, who sends where, its class, the rate that tc gives it, the sizes."""

    name: str
    source: str
    target: str
    sender: str
    address: str | None
    cls: LinkClass
    rate: float | None
    sizes: tuple[int, ...]


@dataclass(kw_only=True)
class Case:
    """Something to predict and then to time.

    Attributes:
        name: of the group it is reported in.
        transfers: source, target and bytes of what runs at once; the last to arrive counts.
        predicted: seconds, and ends of the 80 % interval where one is stated.
        nominal: seconds by the configured rates alone, or None.
        command: what the sender is told; None for a copy in memory.
        sender: which sender.
    """

    name: str
    transfers: list[tuple[str, str, int]]
    predicted: tuple[float, float | None, float | None]
    nominal: float | None
    command: list[list[Any]] | None
    sender: str


class Driver:
    """A process that sends on command, in a network namespace or in none."""

    def __init__(self, prefix: Sequence[str]) -> None:
        self._process, _ = _child(prefix, "drive")

    def seconds(self, transfers: list[list[Any]], repeats: int) -> list[float]:
        """Until the last of the transfers had arrived, for each repeat."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"transfers": transfers, "repeats": repeats}) + "\n")
        self._process.stdin.flush()
        return [max(each) for each in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _child(prefix: Sequence[str], *arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
    """A process of the other file that is ready, and what it said then."""
    made = subprocess.Popen(
        [*prefix, sys.executable, str(ROOT / "bench" / "links" / "links_child.py"), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made.stdout is not None
    words = made.stdout.readline().split()
    assert words[:1] == ["ready"], "an end of the link did not start"
    return made, words[1:]


def copy_seconds(nbytes: int, repeats: int) -> list[float]:
    """Copies between buffers that are used in turn, of every size about 100 MB: all come from memory alike."""
    count = max(2, min(65_536, 100_000_000 // nbytes))
    source = np.ones((count, nbytes), dtype=np.uint8)
    target = np.full_like(source, 2)
    seconds = []
    for number in range(repeats + 1):
        row = number % count
        start = time.perf_counter()
        np.copyto(target[row], source[row])
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def serialising(repeats: int) -> Serialisation:
    """What numpy.save into memory and numpy.load out of it cost an end, the mean of both, by two sizes."""

    def seconds(nbytes: int) -> float:
        array, found = np.ones(nbytes, dtype=np.uint8), []
        for _ in range(repeats):
            start = time.perf_counter()
            made = io.BytesIO()
            np.save(made, array)
            np.load(io.BytesIO(made.getbuffer()))
            found.append((time.perf_counter() - start) / 2)
        return statistics.median(found)

    small, large = seconds(1000), seconds(1_000_000)
    return Serialisation(bytes_s=1_000_000 / (large - small), fixed_s=small, source="bench/links/links.py")


class Bench:
    """The links of this machine: timed at known sizes, predicted at others, timed there."""

    def __init__(self, quick: bool, repeats: int, spaces: dict[str, list[str]] | None) -> None:
        self.repeats = repeats
        self._large = not quick
        self._spaces = spaces
        self._servers: list[subprocess.Popen[str]] = []
        self._ports: dict[str, int] = {}
        self.drivers: dict[str, Driver] = {}
        places = {
            "host": ("127.0.0.1", list[str]()),
            **{one: ("0.0.0.0", prefix) for one, prefix in (spaces or {}).items()},
        }
        for host, (address, prefix) in places.items():
            server, words = _child(prefix, "serve", address)
            self._servers.append(server)
            self._ports[host] = int(words[0])
            self.drivers[host] = Driver(prefix)
        self.cases: list[Case] = []
        self.calibration: dict[str, list[tuple[int, float]]] = {}

    def close(self) -> None:
        for process in self._servers:
            process.kill()
            process.wait()
        for driver in self.drivers.values():
            driver.close()

    def place(self, address: str) -> list[Any]:
        """Where to send: address and port."""
        return [address, self._ports[LISTENERS[address]]]

    def build(self, cost: Serialisation) -> tuple[Topology, Topology]:
        """The measured topology, and the one by configured rates alone.

        In both, a message first passes its host's own network stack (``a`` to ``a.net``), whose latency is that of a
        byte to another process of the same host, and then the links, which have the rest of what was measured on them.
        """
        build, nominal = TopologyBuilder("measured"), TopologyBuilder("nominal")
        links = self._links()
        for one in (build, nominal):
            for host in ("memory", "host", "other", "a", "b", "r"):
                one.host(host, serialisation=cost)
            for host in ("a", "b", "r"):
                one.switch(f"{host}.net")
        samples: dict[str, list[tuple[int, float]]] = {link.name: [] for link in links}
        for _ in range(ROUNDS):
            for link in links:
                for nbytes in link.sizes if self._large else KNOWN:
                    samples[link.name] += [(nbytes, each) for each in self._seconds(link, nbytes)]
        self.calibration = samples
        stack_s = statistics.median(seconds for nbytes, seconds in samples["loopback"] if nbytes == 1)
        for host in ("a", "b", "r"):
            for one in (build, nominal):
                cls = LinkClass(
                    name="stack", kind="other", bandwidth_bytes_s=1e15, latency_s=stack_s, source="measured"
                )
                stack = make_link(f"{host}->{host}.net", host, f"{host}.net", cls)
                one.adopt([replace(stack, interval=(1.0, 1.0), provenance=MEASURED)])
        for link in links:
            plain = nominal.connect(link.source, link.target, link.cls, bandwidth_bytes_s=link.rate, latency_s=0.0,
                                    serialised=False, one_way=True)[0]  # fmt: skip
            found = measured_link(plain, samples[link.name])
            if link.rate is not None:
                found = replace(found, latency_s=max(0.0, found.latency_s - stack_s))
            build.adopt([found])
        return build.build(), nominal.build()

    def _links(self) -> list[Timed]:
        wire = find_link_class("ethernet-1g")
        links = [
            Timed("copy", "memory", "host", "host", None, find_link_class("cpu-memory"), None, LARGE_KNOWN[3:]),
            Timed("loopback", "host", "other", "host", "127.0.0.1", find_link_class("loopback"), None, LARGE_KNOWN),
        ]
        if self._spaces:
            links += [
                Timed("near", "a.net", "r.net", "a", "10.77.1.2", wire, NEAR[0], KNOWN),
                Timed("near, back", "r.net", "a.net", "r", "10.77.1.1", wire, NEAR[1], KNOWN),
                Timed("far", "r.net", "b.net", "r", "10.77.2.2", wire, FAR[0], KNOWN),
                Timed("far, back", "b.net", "r.net", "b", "10.77.2.1", wire, FAR[1], KNOWN),
            ]
        return links

    def _seconds(self, link: Timed, nbytes: int) -> list[float]:
        if link.address is None:
            return copy_seconds(nbytes, self.repeats)
        return self.drivers[link.sender].seconds([[*self.place(link.address), nbytes, PLAIN, None]], self.repeats)

    def predict(self, topology: Topology, nominal: Topology, cost: Serialisation) -> None:
        """Every case, before any of them is timed."""
        single: list[tuple[str, str, str, str, str | None, tuple[int, ...]]] = [
            ("copy in memory", "memory", "host", "host", None, LARGE_ASKED[2:]),
            ("TCP on this host", "host", "other", "host", "127.0.0.1", LARGE_ASKED),
        ]
        if self._spaces:
            single += [
                ("shaped Ethernet", "a", "r.net", "a", "10.77.1.2", ASKED),
                ("shaped Ethernet, the way back", "r", "a.net", "r", "10.77.1.1", ASKED),
                ("two links, router between", "a", "b.net", "a", "10.77.2.2", ASKED),
                ("two links, the way back", "b", "a.net", "b", "10.77.1.1", ASKED),
            ]
        for name, source, target, sender, address, sizes in single:
            for nbytes in sizes if self._large else ASKED:
                found = topology.transfer(source, target, nbytes)
                known = nominal.transfer(source, target, nbytes).time_s if source in "ab" or source == "r" else None
                command = [[*self.place(address), nbytes, PLAIN, None]] if address else None
                one = (found.time_s, found.low_s, found.high_s)
                self._case(name, [(source, target, nbytes)], one, known, command, sender)
        self._predict_messages(topology, cost)
        if self._spaces:
            self._predict_several(topology)

    def _case(
        self, name: str, transfers: list[tuple[str, str, int]], predicted: tuple[float, float | None, float | None],
        nominal: float | None, command: list[list[Any]] | None, sender: str,
    ) -> None:  # fmt: skip
        self.cases.append(
            Case(name=name, transfers=transfers, predicted=predicted, nominal=nominal, command=command, sender=sender)
        )

    def _predict_messages(self, topology: Topology, cost: Serialisation) -> None:
        ways = [("host", "other", "host", "127.0.0.1")] + ([("a", "r.net", "a", "10.77.1.2")] if self._spaces else [])
        for source, target, sender, address in ways:
            for nbytes in (40_000, 500_000, 3_000_000):
                seconds = topology.transfer(source, target, nbytes).time_s + 2 * cost.time_s(nbytes)
                command = [[*self.place(address), nbytes, MESSAGE, None]]
                self._case("with serialising", [(source, target, nbytes)], (seconds, None, None), None, command, sender)

    def _predict_several(self, topology: Topology) -> None:
        for sizes in ((2_000_000, 2_000_000), (3_000_000, 500_000), (1_000_000, 1_000_000, 1_000_000)):
            transfers = [("a", "r.net", nbytes) for nbytes in sizes]
            seconds = max(transfer_times(topology, transfers))
            command = [[*self.place("10.77.1.2"), nbytes, PLAIN, None] for nbytes in sizes]
            self._case("several at once, one link", transfers, (seconds, None, None), None, command, "a")
        # One to the router, one beyond: the second is held back by the farther link, the first takes what is left.
        transfers = [("a", "r.net", 4_000_000), ("a", "b.net", 1_000_000)]
        seconds = max(transfer_times(topology, transfers))
        command = [
            [*self.place("10.77.1.2"), 4_000_000, PLAIN, None],
            [*self.place("10.77.2.2"), 1_000_000, PLAIN, None],
        ]
        self._case("several at once, two ways", transfers, (seconds, None, None), None, command, "a")
        for nbytes in (500_000, 2_000_000):
            seconds = sum(topology.transfer(*way, nbytes).time_s for way in (("a", "r.net"), ("r", "b.net")))
            command = [[*self.place("10.77.1.2"), nbytes, RELAY, self.place("10.77.2.2")]]
            transfers = [("a", "b.net", nbytes)]
            self._case("store and forward", transfers, (seconds, None, None), None, command, "a")

    def time(self, case: Case) -> list[float]:
        """Seconds of each repeat."""
        if case.command is None:
            return copy_seconds(case.transfers[0][2], self.repeats)
        return self.drivers[case.sender].seconds(case.command, self.repeats)


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__ or "", runs=4)
    arguments = parse(made, argv)
    repeats = 2 if arguments.quick else arguments.runs
    report = Report("links", arguments)
    with namespaces() as spaces:
        bench = Bench(arguments.quick, repeats, spaces)
        try:
            _run(bench, report, spaces is not None)
        finally:
            bench.close()
    return report.finish()


def _run(bench: Bench, report: Report, shaped: bool) -> None:
    cost = serialising(15)
    print(f"serialising: {cost.bytes_s / 1e9:.2f} GB/s and {cost.fixed_s * 1e6:.0f} us at each end")
    topology, nominal = bench.build(cost)
    bench.predict(topology, nominal, cost)
    written = json.dumps([[case.name, case.transfers, *case.predicted, case.nominal] for case in bench.cases])
    digest = hashlib.sha256(written.encode()).hexdigest()
    print(f"{len(bench.cases)} predictions made, SHA-256 {digest}; now they are timed", flush=True)
    report.fact("serialisation", {"bytes_s": cost.bytes_s, "fixed_s": cost.fixed_s})
    report.fact("calibration", bench.calibration)
    report.fact("predictions_sha256", digest)
    report.fact("namespaces", shaped)
    found: list[list[float]] = [[] for _ in bench.cases]
    for _ in range(ROUNDS):
        for samples, case in zip(found, bench.cases, strict=True):
            samples += bench.time(case)
    rows = []
    for number, (seconds, case) in enumerate(zip(found, bench.cases, strict=True)):
        rows.append((case, seconds, report.measured(f"{number:02d} {case.name}: {case.transfers}", seconds, "s")))
    report.fact("predictions", json.loads(written))
    _summary(report, rows)


def _summary(report: Report, rows: list[tuple[Case, list[float], float]]) -> None:
    groups: dict[str, list[tuple[Case, list[float], float]]] = {}
    for row in rows:
        groups.setdefault(row[0].name, []).append(row)
    lines, everything, nominal, inside = [], [], [], []
    for name, members in groups.items():
        errors = [abs(case.predicted[0] / median - 1) for case, _, median in members]
        noise = [abs(statistics.median(s[::2]) / statistics.median(s[1::2]) - 1) for _, s, _ in members]
        known = [abs(case.nominal / median - 1) for case, _, median in members if case.nominal is not None]
        for case, seconds, _ in members:
            _, low, high = case.predicted
            if low is not None and high is not None:
                inside += [low <= each <= high for each in seconds]
        everything += errors
        nominal += known
        lines.append(
            [
                name, len(members), f"{statistics.median(errors):.1%}", f"{max(errors):.1%}",
                f"{statistics.median(known):.1%}" if known else "", f"{statistics.median(noise):.1%}",
            ]
        )  # fmt: skip
    print("\n" + table(["link", "cases", "median error", "largest", "by rate alone", "noise floor"], lines))
    ordered = sorted(everything)
    heads = ("link", "cases", "median", "largest", "nominal", "noise")
    report.fact("groups", [dict(zip(heads, line, strict=True)) for line in lines])
    report.bar("median error of predicted transfer times", statistics.median(everything), 0.05)
    report.bar("90th percentile of the error", ordered[int(0.9 * (len(ordered) - 1))], 0.15)
    report.bar("median error by configured rate alone", statistics.median(nominal) if nominal else None, 0.10)
    report.bar("coverage of the 80 % interval, lower", sum(inside) / len(inside), 0.75, ">=")
    report.bar("coverage of the 80 % interval, upper", sum(inside) / len(inside), 0.85)


if __name__ == "__main__":
    raise SystemExit(main())
