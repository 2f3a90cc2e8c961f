"""A topology from YAML: the ``topology:`` section of djinn.yaml. Imports no torch.

    topology:
      preset: dgx-h100                 # a machine by name; count and fabric join several
      count: 2

or, or besides:

    topology:
      hosts:
        alpha: {cpu: xeon-8480, devices: {gpu0: h100-pcie, gpu1: h100-pcie}}
        beta: {like: alpha}
      switches: [tor]
      links:
        - {between: [alpha/gpu0, alpha], class: pcie5-x16}
        - {between: [alpha, tor], bandwidth: 10 Gbit/s, latency: 30us, back: {bandwidth: 1 Gbit/s}}

``docs/topology.md`` describes every key. Every error names file, line and column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from djinn_fx.errors import SettingsError, did_you_mean
from djinn_fx.files.yaml_bounds import read_text
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.device import Device
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.links import (
    LinkClass,
    Serialisation,
    default_serialisation,
    find_link_class,
    link_classes,
)
from djinn_fx.hardware.topology.measured_links import measured_link
from djinn_fx.hardware.topology.nodes import FORWARDING
from djinn_fx.hardware.topology.presets import preset
from djinn_fx.hardware.topology.topology import Topology, missing_way
from djinn_fx.hardware.yaml_places import Entry, read_entries

_SECTION = ("name", "preset", "count", "fabric", "classes", "aliases", "hosts", "switches", "links")
_HOST = ("like", "cpu", "devices", "serialise")
_LINK = ("between", "from", "to", "class", "lanes", "bandwidth", "latency", "back", "medium", "serialised", "measured")
_LONGEST_CHAIN = 64
_DEVICE = ("row", "memory")
_CLASS = ("like", "kind", "bandwidth", "latency", "efficiency", "duplex", "serialised")


def read_topology(path: Path) -> Topology:
    """The topology that a YAML file describes.

    Raises:
        SettingsError: the file cannot be read, or as :func:`topology_from_yaml`.
    """
    text = read_text(path)
    return topology_from_yaml(text, path)


def topology_from_yaml(text: str, path: Path | str = "djinn.yaml") -> Topology:
    """The topology that a YAML text describes, in its section ``topology``.

    Args:
        text: the whole file; other sections are not looked at.
        path: what errors call it.

    Raises:
        SettingsError: no such section; an unknown key (with the nearest), device, link class or node; a quantity that
            is negative or without unit; a cycle of aliases; a device that another cannot reach. With line and column.
    """
    whole = read_entries(text, str(path))
    sections = whole.mapping("the file") if whole is not None else {}
    if "topology" not in sections:
        raise SettingsError(f"{path}: there is no section 'topology'")
    return _Reader(sections["topology"]).read()


class _Reader:
    """Reads one section.

    Args:
        section: the value of ``topology``.
    """

    def __init__(self, section: Entry) -> None:
        self._section = section
        self._keys = section.mapping("topology", _SECTION)
        name = self._keys["name"].text("name") if "name" in self._keys else "topology"
        self._build = TopologyBuilder(name, section.file)
        self._places: dict[str, Entry] = {}
        self._classes: dict[str, LinkClass] = {}
        self._aliases: dict[str, str] = {}

    def read(self) -> Topology:
        self._read_preset()
        self._read_classes()
        self._read_hosts()
        self._read_switches()
        self._read_aliases()
        for number, entry in enumerate(self._part("links", list)):
            self._read_link(f"links[{number}]", entry)
        if not any(node.device for node in self._build.nodes.values()):
            raise self._section.error("no devices: name a preset, or hosts with 'cpu' or 'devices'")
        topology = self._build.build()
        self._check_reach(topology)
        return topology

    def _part(self, name: str, kind: type) -> Any:
        if name not in self._keys:
            return kind()
        entry = self._keys[name]
        return entry.items(name) if kind is list else entry.mapping(name)

    def _read_preset(self) -> None:
        for key in ("count", "fabric"):
            if key in self._keys and "preset" not in self._keys:
                raise self._section.key_places[key].error(f"{key!r} says something of a preset, and none is named")
        if "preset" not in self._keys:
            return
        entry = self._keys["preset"]
        count = self._keys["count"].count("count") if "count" in self._keys else 1
        fabric = self._keys["fabric"].text("fabric") if "fabric" in self._keys else None
        ready = _placed(entry, lambda: preset(entry.text("preset"), count, fabric))
        self._build.nodes.update(ready.nodes)
        self._build.adopt(ready.links)
        self._places.update(dict.fromkeys(ready.nodes, entry))

    def _read_classes(self) -> None:
        rows: Mapping[str, Entry] = self._part("classes", dict)
        likes = {key: row.mapping(key, _CLASS).get("like") for key, row in rows.items()}
        for name, entry in rows.items():
            chain = _chain(name, likes, entry)
            last = rows[chain[-1]].mapping(chain[-1], _CLASS)
            base = (
                _placed(last["like"], lambda given=last: find_link_class(given["like"].text("like")))
                if ("like" in last)
                else None
            )
            for one in reversed(chain):
                base = self._link_class(name, rows[one], base)
            assert base is not None
            self._classes[name] = base

    @staticmethod
    def _link_class(name: str, entry: Entry, base: LinkClass | None) -> LinkClass:
        row = entry.mapping(f"class {name}", _CLASS)
        given: dict[str, Any] = {"name": name, "source": f"{entry.file}:{entry.line}"}
        if "kind" in row:
            given["kind"] = row["kind"].text("kind")
        if "bandwidth" in row:
            given["bandwidth_bytes_s"] = row["bandwidth"].bandwidth("bandwidth")
        if "latency" in row:
            given["latency_s"] = row["latency"].seconds("latency")
        if "serialised" in row:
            given["serialised"] = row["serialised"].flag("serialised")
        if "duplex" in row:
            given["half_duplex"] = _one_of(row["duplex"], "duplex", ("full", "half")) == "half"
        if "efficiency" in row:
            given["efficiency"] = _share(row["efficiency"])
        if base is not None:
            return replace(base, **given)
        for key in ("bandwidth", "latency"):
            if key not in row:
                raise entry.error(f"class {name}: say its {key!r}, or 'like' which other class it is")
        return LinkClass(**{"kind": "other", **given})

    def _read_hosts(self) -> None:
        rows: Mapping[str, Entry] = self._part("hosts", dict)
        likes = {key: row.mapping(f"host {key}", _HOST).get("like") for key, row in rows.items()}
        for name, entry in rows.items():
            chain = _chain(name, likes, entry)
            base = likes[chain[-1]]
            if base is not None:
                raise base.error(f"host {chain[-1]}: like {base.value!r}{_near(str(base.value), rows)}")
            row: dict[str, Entry] = {}
            for one in reversed(chain):
                row.update(rows[one].value)
            self._read_host(name, row, entry)

    def _read_host(self, name: str, row: Mapping[str, Entry], entry: Entry) -> None:
        cpu = row.get("cpu")
        device = _device(cpu) if cpu is not None else None
        cost = row.get("serialise")
        made = None
        if cost is not None:
            usual = default_serialisation()
            made = Serialisation(
                bytes_s=cost.bandwidth("serialise"), fixed_s=usual.fixed_s, source=f"{cost.file}:{cost.line}"
            )
        self._place(entry, lambda: self._build.host(name, device, made))
        devices = row["devices"].mapping("devices") if "devices" in row else {}
        for short, wanted in devices.items():
            found = _device(wanted)
            self._place(wanted, lambda one=short, row=found: self._build.device(f"{name}/{one}", row, name))

    def _read_switches(self) -> None:
        entry = self._keys.get("switches")
        if entry is None:
            return
        if isinstance(entry.value, list):
            for one in entry.value:
                self._place(one, lambda given=one: self._build.switch(given.text("switches")))
            return
        for name, place in entry.mapping("switches").items():
            row = place.mapping(f"switch {name}", ("forwarding",)) if place.value is not None else {}
            how = _one_of(row["forwarding"], "forwarding", FORWARDING[1:]) if "forwarding" in row else "cut-through"
            self._place(place, lambda one=name, kind=how: self._build.switch(one, forwarding=kind))

    def _place(self, entry: Entry, make: Any) -> None:
        """Add a node and remember where it was written."""
        self._places[_placed(entry, make)] = entry

    def _read_aliases(self) -> None:
        rows: Mapping[str, Entry] = self._part("aliases", dict)
        for name, entry in rows.items():
            if name in self._build.nodes:
                raise entry.error(f"alias {name!r}: a node has that name")
            chain = _chain(name, rows, entry)
            end = rows[chain[-1]].text("alias")
            if end not in self._build.nodes:
                raise rows[chain[-1]].error(f"alias {chain[-1]!r} stands for {end!r}{_near(end, self._build.nodes)}")
            self._aliases[name] = end

    def _node(self, entry: Entry) -> str:
        name = entry.text("a link's end")
        name = self._aliases.get(name, name)
        if name not in self._build.nodes:
            raise entry.error(f"the link leads to {name!r}{_near(name, [*self._build.nodes, *self._aliases])}")
        return name

    def _read_link(self, what: str, entry: Entry) -> None:
        row = entry.mapping(what, _LINK)
        one, other, one_way = self._ends(what, row, entry)
        cls = self._class_of(what, row, entry)
        back = row["back"].mapping("back", ("bandwidth", "latency")) if "back" in row else {}
        if back and one_way:
            raise row["back"].error(f"{what}: 'from' and 'to' make one direction; 'back' belongs to 'between'")
        made = _placed(
            entry,
            lambda: self._build.connect(
                one,
                other,
                cls,
                lanes=row["lanes"].count("lanes") if "lanes" in row else 1,
                bandwidth_bytes_s=row["bandwidth"].bandwidth("bandwidth") if "bandwidth" in row else None,
                back_bytes_s=back["bandwidth"].bandwidth("bandwidth") if "bandwidth" in back else None,
                latency_s=row["latency"].seconds("latency") if "latency" in row else None,
                back_latency_s=back["latency"].seconds("latency") if "latency" in back else None,
                medium=row["medium"].text("medium") if "medium" in row else None,
                serialised=row["serialised"].flag("serialised") if "serialised" in row else None,
                one_way=one_way,
            ),
        )
        if "measured" in row:
            samples = self._samples(what, row["measured"])
            self._build.links[-len(made) :] = [measured_link(link, samples) for link in made]

    @staticmethod
    def _samples(what: str, entry: Entry) -> list[tuple[int, float]]:
        """Pairs of a size and a time."""
        samples = []
        for pair in entry.items(f"{what}: measured"):
            both = pair.items(f"{what}: measured")
            if len(both) != 2:
                raise pair.error(f"{what}: measured: expected a size and a time, as in [1MB, 40us]")
            samples.append((both[0].size("size"), both[1].seconds("time")))
        if len({size for size, _ in samples}) < 2 or min(seconds for _, seconds in samples) <= 0:
            raise entry.error(f"{what}: measured: times of two sizes or more are needed, all above 0")
        return samples

    def _ends(self, what: str, row: Mapping[str, Entry], entry: Entry) -> tuple[str, str, bool]:
        if "between" in row:
            ends = row["between"].items("between")
            if len(ends) != 2 or "from" in row or "to" in row:
                raise row["between"].error(f"{what}: 'between' has two ends, and stands instead of 'from' and 'to'")
        elif "from" in row and "to" in row:
            ends = [row["from"], row["to"]]
        else:
            raise entry.error(f"{what}: say 'between: [one, other]', or 'from' and 'to'")
        one, other = map(self._node, ends)
        if one == other:
            raise ends[1].error(f"{what}: the link leads from a node to itself")
        return one, other, "between" not in row

    def _class_of(self, what: str, row: Mapping[str, Entry], entry: Entry) -> LinkClass:
        if "class" in row:
            place = row["class"]
            name = place.text("class")
            if name in self._classes:
                return self._classes[name]
            if name not in link_classes():
                raise place.error(f"no link class {name!r}{_near(name, [*self._classes, *link_classes()])}")
            return find_link_class(name)
        for key in ("bandwidth", "latency") if "measured" not in row else ():
            if key not in row:
                raise entry.error(f"{what}: say its {key!r}, or its 'class'")
        return LinkClass(
            name="link", kind="other", bandwidth_bytes_s=1.0, latency_s=0.0, source=f"{entry.file}:{entry.line}"
        )

    def _check_reach(self, topology: Topology) -> None:
        """A device that another one cannot reach is a missing link: better said now than when something is placed."""
        pair = missing_way(topology)
        if pair is not None:
            source, target = pair
            raise self._places[target].error(
                f"no way from {source!r} to {target!r}: a link is missing; {target!r} receives on "
                f"{len(topology.links_to(target))} links, {source!r} sends on {len(topology.links_from(source))}"
            )


def _device(entry: Entry) -> Device:
    """A device by the name of its row, or by a row and the memory that a model may take there."""
    row = entry.mapping("device", _DEVICE) if isinstance(entry.value, Mapping) else {"row": entry}
    if "row" not in row:
        raise entry.error("device: say its 'row'")
    found: Device = _placed(row["row"], lambda: find_device(row["row"].text("device")))
    return replace(found, memory_bytes=row["memory"].size("memory")) if "memory" in row else found


def _chain(name: str, links: Mapping[str, Entry | None], entry: Entry) -> list[str]:
    """The names that follow one another from ``name`` on, as long as they are in ``links``.

    Raises:
        SettingsError: they come back to where they were, or there are too many.
    """
    chain = [name]
    while True:
        following = links[chain[-1]]
        if following is None or following.value not in links:
            return chain
        if following.value in chain:
            raise entry.error(f"a cycle of aliases: {' -> '.join([*chain, following.value])}")
        if len(chain) > _LONGEST_CHAIN:
            raise entry.error(f"more than {_LONGEST_CHAIN} names that stand for one another: name the last one here")
        chain.append(following.value)


def _placed(entry: Entry, make: Any) -> Any:
    """What ``make`` gives; an error without a place gets this one."""
    try:
        return make()
    except SettingsError as error:
        if str(error).startswith(f"{entry.file}:"):
            raise
        raise entry.error(str(error)) from error


def _near(name: str, known: Any) -> str:
    names = list(known)
    few = f"; there are: {', '.join(names[:12]) or 'none'}"
    return f", which is not there{did_you_mean(name, names, few, cutoff=0.4)}"


def _one_of(entry: Entry, what: str, allowed: tuple[str, ...]) -> str:
    if entry.value not in allowed:
        raise entry.error(f"{what}: expected {' or '.join(map(repr, allowed))}, found {entry.value!r}")
    return str(entry.value)


def _share(entry: Entry) -> float:
    value = entry.value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise entry.error(f"efficiency: expected a share above 0 and at most 1, found {value!r}")
    return float(value)
