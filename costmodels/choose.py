"""Which cost model prices a graph, for which device, and why: what estimate-cost and the choice of engines share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from djinn_fx.costmodels.estimate import CostModel, Estimate
from djinn_fx.costmodels.laws.calibrated import CalibratedModel
from djinn_fx.costmodels.laws.gpu import GpuModel
from djinn_fx.costmodels.laws.roofline import ROOFLINE
from djinn_fx.costmodels.learning import Learned, LearnedModel, ops_of
from djinn_fx.costmodels.measured import KnownTimes
from djinn_fx.costmodels.profile import Conditions, FoundProfile, Profile, profile_folder, read_profile
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.errors import SettingsError
from djinn_fx.hardware.catalogue import default_device, find_device, known_device
from djinn_fx.hardware.device import Device
from djinn_fx.hardware.topology.file import read_topology
from djinn_fx.hardware.topology.presets import preset
from djinn_fx.hardware.topology.topology import Topology
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER

log = logging.getLogger("djinn_fx.costmodels")


@dataclass(frozen=True, kw_only=True)
class Pricing:
    """By what a graph is priced.

    Attributes:
        model: tells the times.
        device: it is priced for.
        engines: that its regions may run on, the one that will serve them first.
        times: measured ones, which the model's give way to; None if none are kept.
        profile: the calibration that the model stands on; None if it stands on none.
        problem: why there is a profile that is not used; None if there is none, or it is used.
        reasons: why it is this model and this device.
    """

    model: CostModel
    device: Device
    engines: tuple[str, ...] = (EAGER,)
    times: KnownTimes | None = None
    profile: Profile | None = None
    problem: str | None = None
    reasons: tuple[Reason, ...] = ()

    @property
    def base(self) -> CostModel:
        """The model without what was learned."""
        return self.model.base if isinstance(self.model, LearnedModel) else self.model

    def ops(self, works: Sequence[Work]) -> list[Estimate]:
        """Each op called on its own, without what was learned: from these times follows where a graph is cut, and a cut
        that moved with every call that teaches would find none of the artefacts of the last one.

        Raises:
            SettingsError: the user's model answered with something that is no estimate.
        """
        found = ops_of(self.base, works, self.device)
        return [_checked(one, self.model, work.op) for one, work in zip(found, works, strict=True)]

    def region(self, graph: WorkGraph, engine: str, structural_hash: str = "") -> Estimate:
        """A region on an engine: what it took here the last time, if that is known, else by the model.

        Raises:
            SettingsError: as :meth:`ops`.
        """
        known = self.times.time(structural_hash, engine) if self.times is not None and structural_hash else None
        if known is not None:
            return known.estimate
        return _checked(self.model.region(graph, self.device, engine), self.model, f"a region on {engine}")


def pricing(
    model: object = "auto",
    *,
    device: str | Device | None = None,
    kind: str = "cpu",
    topology: str | None = None,
    engines: tuple[str, ...] = (EAGER,),
    times: KnownTimes | None = None,
    conditions: Callable[[], Conditions] | None = None,
    cache_dir: str | None = None,
    learned: Callable[[str], Learned] | None = None,
) -> Pricing:
    """By what a graph is to be priced. A profile that is missing, damaged or stale is never an error.

    Args:
        model: the setting ``cost_model``: ``"auto"``, ``"datasheet"`` or a ``CostModel``.
        device: the setting ``device``, the name of a row of the catalogue; a row; None: the one that is present.
        kind: type of the device that the graph's tensors are on, as torch names it.
        topology: the setting of that name; where it has one sort of device of the kind, that is priced for.
        engines: that regions may run on, the one that will serve them first.
        times: measured ones of this machine; None: none are kept.
        conditions: what a profile must agree with; None: no profile is looked for.
        cache_dir: the setting of that name.
        learned: gives what was learned about the model of a name; None: nothing is learned.

    Raises:
        SettingsError: no such device or topology, or something in the topology's file is wrong.
    """
    row, reasons = (device, []) if isinstance(device, Device) else device_of(device, kind, topology_of(topology))
    if not isinstance(model, str):
        assert isinstance(model, CostModel), "checked by the settings"
        told = (*reasons, _priced(f"the cost model {model.name!r}", row))
        return Pricing(model=model, device=row, engines=engines, times=times, reasons=told)
    profile, problem = None, None
    chosen: CostModel = ROOFLINE
    detail = "datasheets"
    if model == "auto" and row.name == "this-machine" and conditions is not None:
        found = read_cached(profile_folder(cache_dir), conditions())
        made, problem = _calibrated(found)
        if problem is not None:
            reasons.append(Reason(kind=ReasonKind.CACHE_UNUSABLE, detail=problem))
        if made is not None:
            chosen, profile = made, found.profile
            assert profile is not None, "a model was made of it"
            detail = f"the profile of {profile.made[:10]}"
        elif problem is None:
            detail += " (run `djinn calibrate` once to have them measured here)"
    elif model == "auto" and row.kind == "cuda":
        chosen, detail = Surviving(GpuModel()), "laws of kernels that were fitted to measured GPUs"
    reasons.append(_priced(detail, row))
    if learned is not None:
        known = learned(chosen.name)
        if profile is not None:
            reasons += [Reason(kind=ReasonKind.DRIFT, detail=str(drift)) for drift in known.drifts()]
        chosen = LearnedModel(chosen, known)
    return Pricing(
        model=chosen,
        device=row,
        engines=engines,
        times=times,
        profile=profile,
        problem=problem,
        reasons=tuple(reasons),
    )


def topology_of(text: str | None) -> Topology | None:
    """What the setting ``topology`` names: a preset, or a YAML file with such a section.

    Raises:
        SettingsError: there is no such preset, or the file is wrong; with line and column.
    """
    if text is None:
        return None
    path = Path(text).expanduser()
    return read_topology(path) if path.suffix in (".yaml", ".yml") else preset(text)


def device_of(name: str | None, kind: str, topology: Topology | None = None) -> tuple[Device, list[Reason]]:
    """The device to price for; a Reason where nobody named it and it is not the one that is present.

    Args:
        name: of a row, or None.
        kind: device type as torch names it.
        topology: the machines that are planned for; None: this one.

    Raises:
        SettingsError: no such row.
    """
    if name is not None:
        return find_device(name), []
    rows = {row.name: row for row in topology.devices.values() if row.kind == kind} if topology is not None else {}
    if len(rows) == 1:
        return next(iter(rows.values())), []
    if kind == "cpu":
        return find_device("this-machine"), []
    reported = _gpu_name() if kind == "cuda" else None
    present = known_device(reported) if reported is not None else None
    if present is not None:
        return present, []
    row = default_device(kind)
    why = f"{reported!r} has no row" if reported is not None else f"no {kind} device is present or named"
    detail = f"{why}: priced as {row.name}; name the device by the setting `device`"
    return row, [Reason(kind=ReasonKind.ASSUMED, detail=detail)]


def _gpu_name() -> str | None:
    """What the driver calls the GPU that is present."""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def _priced(by: str, row: Device) -> Reason:
    return Reason(kind=ReasonKind.PRICED, detail=f"times are those of {row.name}, by {by}")


# Profiles


def read_cached(folder: Path, here: Conditions) -> FoundProfile:
    """:func:`~djinn_fx.costmodels.profile.read_profile`, once for each state of the file."""
    try:
        status = (folder / "profile.json").stat()
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
    except OSError:
        state = (0, 0, 0)
    key = (str(folder), state, repr(here))
    if key not in _PROFILES:
        if len(_PROFILES) > 16:
            _PROFILES.clear()
        _PROFILES[key] = read_profile(folder, here)
        if (problem := _PROFILES[key].problem) is not None:
            log.warning("%s", problem)
    return _PROFILES[key]


_PROFILES: dict[tuple[str, tuple[int, int, int], str], FoundProfile] = {}


def _calibrated(found: FoundProfile) -> tuple[CostModel | None, str | None]:
    """The model that a profile makes, if it makes one; and what is wrong with the profile, if there is one."""
    if found.profile is None:
        return None, found.problem
    try:
        name = f"profile {found.profile.made}"
        return Surviving(CalibratedModel(found.profile.fitted, name=name, threads=torch.get_num_threads())), None
    except Exception as error:  # noqa: BLE001 - a profile must not break a compile; the caller records the Reason
        problem = f"{found.path}: no model can be made of it ({type(error).__name__}: {error}): run `djinn calibrate`"
        log.warning("%s", problem)
        return None, problem


class Surviving:
    """A fitted model that gives way to datasheets where it fails. A ``CostModel``.

    What it stands on was fitted once and read from a file: whatever is wrong with it must not break a compile.

    Attributes:
        failure: the first one; None if there was none.
    """

    def __init__(self, model: CostModel) -> None:
        self._model, self._below = model, ROOFLINE
        self.failure: str | None = None

    @property
    def name(self) -> str:
        """The model's own."""
        return self._model.name

    def op(self, work: Work, device: Device) -> Estimate:
        """See ``CostModel``."""
        try:
            return _checked(self._model.op(work, device), self._model, work.op)
        except Exception as error:  # noqa: BLE001 - noted, and logged as the first of its kind
            self._note(error, work.op)
            return self._below.op(work, device)

    def ops(self, works: Sequence[Work], device: Device) -> list[Estimate]:
        """Many ops; by datasheets where they fail."""
        try:
            found = ops_of(self._model, works, device)
            return [_checked(one, self._model, work.op) for one, work in zip(found, works, strict=True)]
        except Exception as error:  # noqa: BLE001 - noted, and logged as the first of its kind
            self._note(error, f"{len(works)} ops")
            return [self._below.op(work, device) for work in works]

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        """See ``CostModel``."""
        try:
            return _checked(self._model.region(graph, device, engine), self._model, f"a region on {engine}")
        except Exception as error:  # noqa: BLE001 - noted, and logged as the first of its kind
            self._note(error, f"a region on {engine}")
            return self._below.region(graph, device, engine)

    def _note(self, error: Exception, what: str) -> None:
        if self.failure is None:
            self.failure = f"{self.name} gives no time for {what} ({type(error).__name__}: {error}): datasheets do"
            log.warning("%s", self.failure)


def _checked(estimate: Estimate, model: CostModel, what: str) -> Estimate:
    """An estimate that is one.

    Raises:
        SettingsError: it is not: no Estimate, a time below 0 or that is no number, or outside its own interval.
    """
    if not isinstance(estimate, Estimate):
        raise SettingsError(f"cost model {model.name!r} gave {estimate!r:.60} for {what}: it must give an Estimate")
    if not 0 <= estimate.low_s <= estimate.time_s <= estimate.high_s < math.inf:
        raise SettingsError(
            f"cost model {model.name!r} gave {estimate} for {what}: 0 <= low_s <= time_s <= high_s must hold"
        )
    return estimate
