"""Devices that a user names, the links between them, and what is pinned to which.

devices:
  cpu:0: {cores: [0], memory: 4GB}
  cpu:1: {cores: [1]}
links:
  cpu:0-cpu:1: {bandwidth: 1GB/s, latency: 10us}
pin:
  model.layers.0-11: cpu:0

or CUDA devices, which are there and have links of their own:

devices:
  cuda:0: {memory: 40GB}
  cuda:1: {}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationInfo, field_validator

from djinn_fx.errors import SettingsError, UnitError, did_you_mean
from djinn_fx.files.yaml_bounds import checked
from djinn_fx.settings.field import setting
from djinn_fx.settings.workers import WorkerSettings
from djinn_fx.units import parse_bandwidth, parse_bytes, parse_seconds

_NAME = re.compile(r"cpu:[0-9]{1,3}")
_CUDA = re.compile(r"cuda:(0|[1-9][0-9]{0,2})")
_DEVICE_KEYS = ("cores", "memory")
_CUDA_KEYS = ("memory",)
_LINK_KEYS = ("bandwidth", "latency")


@dataclass(frozen=True, kw_only=True)
class LocalDevice:
    """Some of this machine's processors as a device of its own.

    Attributes:
        name: such as ``"cpu:0"``.
        cores: the processors it runs on, by the operating system's numbers.
        memory_bytes: what its part of a model may take; None: as much as there is.
    """

    name: str
    cores: tuple[int, ...]
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class CudaDevice:
    """A CUDA device by torch's number. Whether it is there is asked when a graph is placed.

    Attributes:
        name: such as ``"cuda:0"``.
        memory_bytes: what its part of a model may take; None: as much as there is.
    """

    name: str
    memory_bytes: int | None = None

    @property
    def index(self) -> int:
        """Torch's number for it."""
        return int(self.name.partition(":")[2])


#: What the setting ``devices`` names: all of one sort.
NamedDevice = LocalDevice | CudaDevice


@dataclass(frozen=True, kw_only=True)
class DeclaredLink:
    """A link between two such devices, the same in both directions: what passes between them takes that long.

    Attributes:
        ends: the two devices.
        bandwidth_bytes_s: bytes per second.
        latency_s: seconds until the first byte has arrived.
    """

    ends: tuple[str, str]
    bandwidth_bytes_s: float
    latency_s: float


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A wish of the user's: what a module computes runs on a device.

    Attributes:
        module: its path, with ``a-b`` for a range of numbers; empty: the whole model.
        device: the device's name.
        written: the setting that says so.
    """

    module: str
    device: str
    written: str = "pin"


# The settings' fields; they stand in the table.

DEVICES: Any = setting(
    None,
    "devices",
    "devices to spread a graph over, each some processors of this machine with a thread of its own, such as "
    "`{cpu:0: {cores: [0], memory: 4GB}, cpu:1: {cores: [1]}}`, or CUDA devices, such as `{cuda:0: {memory: 40GB}, "
    "cuda:1: {}}`; none: the one that the tensors are on",
    accepts="names such as cpu:0, each with cores and perhaps memory, or such as cuda:0, each with perhaps memory, or "
    "none",
    compiles=True,
)
LINKS: Any = setting(
    None,
    "devices",
    "links between these devices, such as `{cpu:0-cpu:1: {bandwidth: 1GB/s, latency: 10us}}`: values that pass are "
    "copied and take that long, so that slower links can be tried; none: they are handed over as they are",
    accepts="pairs of devices such as cpu:0-cpu:1, each with bandwidth and perhaps latency, or none",
    compiles=True,
)
PIN: Any = setting(
    None,
    "devices",
    "modules that run on a device of your choice, such as `{model.layers.0-11: cpu:0}`; a longer path goes before "
    "a shorter one; none: placed by cost",
    accepts="a device for each module's path, or none",
    compiles=True,
)
DEVICE_MAP: Any = setting(
    None,
    "devices",
    "the same as Transformers writes it: a number is the n-th of `devices`, the empty path the whole model, `auto` "
    "pins nothing",
    accepts='a device or a number for each module\'s path, "auto", or none',
    compiles=True,
)
OBJECTIVE: Any = setting(
    "latency",
    "devices",
    "what several devices are for: that one call is over soon, or that many calls in a row are (`djinn_fx.pipeline`)",
    compiles=True,
)


class DeviceSettings(WorkerSettings, frozen=True, extra="forbid", strict=True):
    """How the settings about devices are read."""

    if TYPE_CHECKING:
        pin: Any
        device_map: Any

    @field_validator("devices", mode="before", check_fields=False)
    @classmethod
    def _devices(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("workers") is not None:
            raise ValueError("a graph is spread over devices of this process or over workers: name one of the two")
        return read_devices(value)

    @field_validator("links", mode="before", check_fields=False)
    @classmethod
    def _links(cls, value: Any, info: ValidationInfo) -> Any:
        return read_links(value, info.data["devices"] or ()) if "devices" in info.data else None

    @field_validator("pin", "device_map", mode="before", check_fields=False)
    @classmethod
    def _pins(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None, "a field's validator"
        if "devices" not in info.data:
            return None
        # Devices of a topology, and workers, are known where they are met; with devices here, pins are about these.
        others = info.data.get("topology") is not None or info.data.get("workers") is not None
        elsewhere = others and not info.data["devices"]
        return read_pins(value, info.field_name, info.data["devices"] or (), elsewhere=elsewhere)

    @property
    def pins(self) -> tuple[Pin, ...]:
        """What ``pin`` and ``device_map`` say."""
        return (*(self.pin or ()), *(self.device_map or ()))


def read_devices(value: Any) -> tuple[NamedDevice, ...] | None:
    """The setting ``devices``.

    Raises:
        ValueError: no devices, a name or key that is none, a processor that is not there or taken twice, a size
            without unit, or processors beside CUDA devices.
    """
    if value is None or _are(value, LocalDevice) or _are(value, CudaDevice):
        return value  # type: ignore[no-any-return]
    if isinstance(value, (list, tuple)):  # as a kept form has them
        return tuple(
            LocalDevice(**{**one, "cores": tuple(one["cores"])}) if "cores" in one else CudaDevice(**one)
            for one in value
        )
    table = _table(value)
    if not table:
        raise ValueError("name at least one device")
    for name in table:
        if not isinstance(name, str) or not (_NAME.fullmatch(name) or _CUDA.fullmatch(name)):
            raise ValueError(f"{name!r} is no name of a device: write cpu:0, cpu:1, … or cuda:0, cuda:1, …")
    kinds = {name.partition(":")[0]: name for name in table}
    if len(kinds) > 1:
        raise ValueError(
            f"{kinds['cpu']} and {kinds['cuda']}: name processors or CUDA devices, not both: a graph is spread over "
            "devices of one sort"
        )
    return _cuda_devices(table) if "cuda" in kinds else _processor_devices(table)


def _cuda_devices(table: Mapping[str, Any]) -> tuple[CudaDevice, ...]:
    return tuple(
        CudaDevice(name=name, memory_bytes=_memory(name, _keys(name, row, _CUDA_KEYS))) for name, row in table.items()
    )


def _processor_devices(table: Mapping[str, Any]) -> tuple[LocalDevice, ...]:
    found, taken = [], dict[int, str]()
    present = _processors()
    for name, row in table.items():
        keys = _keys(name, row, _DEVICE_KEYS)
        cores = keys.get("cores")
        if not isinstance(cores, (list, tuple)) or not cores or not all(type(core) is int for core in cores):
            raise ValueError(f"{name}: cores is a list of processors' numbers, such as [0]")
        for core in cores:
            if core not in present:
                raise ValueError(f"{name}: there is no processor {core}; this process may use {present}")
            if core in taken:
                raise ValueError(
                    f"processor {core} is in {taken[core]} and in {name}"
                    if taken[core] != name
                    else f"{name}: processor {core} is there twice"
                )
            taken[core] = name
        found.append(LocalDevice(name=name, cores=tuple(cores), memory_bytes=_memory(name, keys)))
    return tuple(found)


def _memory(name: str, keys: Mapping[str, Any]) -> int | None:
    memory = keys.get("memory")
    return _quantity(name, memory, parse_bytes) if memory is not None else None


def read_links(value: Any, devices: Sequence[NamedDevice]) -> tuple[DeclaredLink, ...] | None:
    """The setting ``links``.

    Raises:
        ValueError: an unknown device, a link from a device to itself or one told twice, a quantity without unit, or one
            between CUDA devices.
    """
    if value is None or _are(value, DeclaredLink):
        return value  # type: ignore[no-any-return]
    if isinstance(value, (list, tuple)):
        return tuple(DeclaredLink(**{**one, "ends": tuple(one["ends"])}) for one in value)
    known = [device.name for device in devices]
    if any(isinstance(device, CudaDevice) for device in devices):
        raise ValueError("links are declared between processors; CUDA devices have the machine's own")
    found: dict[frozenset[str], DeclaredLink] = {}
    for name, row in _table(value).items():
        ends = tuple(str(name).split("-"))
        if len(ends) != 2:
            raise ValueError(f"{name!r} is no link: write two devices with a hyphen, such as cpu:0-cpu:1")
        for end in ends:
            check_device(end, known)
        if ends[0] == ends[1] or frozenset(ends) in found:
            raise ValueError(
                f"{name}: a link from a device to itself" if ends[0] == ends[1] else f"{name} is told twice"
            )
        keys = _keys(str(name), row, _LINK_KEYS)
        if "bandwidth" not in keys:
            raise ValueError(f"{name}: bandwidth is missing")
        found[frozenset(ends)] = DeclaredLink(
            ends=(ends[0], ends[1]),
            bandwidth_bytes_s=_quantity(str(name), keys["bandwidth"], parse_bandwidth),
            latency_s=_quantity(str(name), keys.get("latency", "0s"), parse_seconds),
        )
    return tuple(found.values())


def read_pins(
    value: Any, written: str, devices: Sequence[NamedDevice], *, elsewhere: bool = False
) -> tuple[Pin, ...] | None:
    """The settings ``pin`` and ``device_map``. ``elsewhere``: devices of a topology may be named, whichever it has.

    Raises:
        ValueError: an unknown device.
    """
    if value is None or _are(value, Pin):
        return value  # type: ignore[no-any-return]
    if value == "auto" and written == "device_map":
        return None
    if isinstance(value, (list, tuple)):
        return tuple(Pin(**one) for one in value)
    known = [device.name for device in devices]
    found = []
    for module, device in _table(value).items():
        if type(device) is int and 0 <= device < len(known):
            device = known[device]
        if elsewhere and type(device) in (str, int):
            device = str(device)
        else:
            check_device(device, known)
        found.append(Pin(module=str(module if module is not None else ""), device=device, written=written))
    return tuple(found)


def check_device(name: object, known: Sequence[str]) -> None:
    """See to it that a device is there.

    Raises:
        ValueError: it is not; names the nearest.
    """
    if name not in known:
        there = f"; there are: {', '.join(known)}" if known else "; there are none: the setting `devices` makes them"
        raise ValueError(f"there is no device {name!r}{did_you_mean(name, known, there, cutoff=0.4)}")


def _processors() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _are(value: Any, kind: type) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, kind) for one in value)


def _table(value: Any) -> Mapping[Any, Any]:
    """A table; where it is text (a variable of the environment), the one that it is in YAML."""
    if isinstance(value, str):
        try:
            value = checked(value, "the value").get_single_data()
        except (yaml.YAMLError, SettingsError) as error:
            raise ValueError(str(error)) from error
    if not isinstance(value, Mapping):
        raise ValueError("write a table of names and values")
    return value


def _keys(name: str, row: Any, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise ValueError(f"{name}: write {{{', '.join(f'{key}: …' for key in known)}}}")
    for key in row:
        if key not in known:
            raise ValueError(
                f"{name}: unknown key {key!r}{did_you_mean(key, known, f'; known: {chr(44).join(known)}')}"
            )
    return row


def _quantity(name: str, value: Any, parse: Any) -> Any:
    try:
        return parse(value if isinstance(value, str) else repr(value))
    except UnitError as error:
        raise ValueError(f"{name}: {error}") from error
