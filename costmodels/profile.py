"""What was measured on one machine, and what was fitted to it: samples, the profile, and its file.

The file is JSON with a checksum and the user's signature, written whole or not at all, for its user alone. One that is
damaged, somebody else's, of another machine, of other library versions or of other threads is never used and never
raised: :func:`read_profile` says why.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from djinn_fx.costmodels.work.work import WorkGraph
from djinn_fx.errors import StoreError
from djinn_fx.files.private import default_cache_dir, own_folder, write_atomic
from djinn_fx.files.signing import NotOurs, seal, unseal
from djinn_fx.hardware.machine import machine_identity
from djinn_fx.settings.engines import TRAITS

SCHEMA = "djinn-profile/1"
#: The profile's file in its folder, and the samples that it was fitted to.
PROFILE_FILE, SAMPLES_FILE = "profile.json", "samples.json"
#: Libraries whose version decides how fast things are.
LIBRARIES = ("torch", *(name for name, traits in TRAITS.items() if traits.reads_onnx))
#: A larger file is none of ours.
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A graph that was run again and again by an engine, and how long one run took.

    What a run touches is as warm in the caches as it is in a model that is called again and again: the graph is all
    that ran between two runs of the same op.

    Attributes:
        engine: one of ``settings.ENGINE_NAMES``.
        threads: that torch and the engine were given.
        label: what the graph is, for people: ``"linear m=1 k=1024 n=4096 x8"``.
        graph: its work.
        time_s: median seconds of a run, its call included.
        spread: half the distance of the quartiles of the runs' times, as a share of ``time_s``.
        family: samples of one family differ in sizes only; held out together when a fit is judged.
        device: what it ran on: ``"cpu"`` or ``"cuda"``.
    """

    engine: str
    threads: int
    label: str
    graph: WorkGraph
    time_s: float
    spread: float
    family: str = ""
    device: str = "cpu"

    def to_json(self) -> dict[str, Any]:
        """Plain data; inverse of :meth:`from_json`."""
        return {
            "engine": self.engine,
            "threads": self.threads,
            "label": self.label,
            "family": self.family,
            "device": self.device,
            "time_s": self.time_s,
            "spread": self.spread,
            "graph": self.graph.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sample:
        """The sample behind :meth:`to_json`'s data.

        Raises:
            KeyError, TypeError, ValueError: not such data.
        """
        sample = cls(**{**data, "graph": WorkGraph.from_json(data["graph"])})
        if not (math.isfinite(sample.time_s) and sample.time_s > 0):
            raise ValueError(f"time_s is {sample.time_s}")
        return sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What was fitted to one machine's samples, and where it comes from.

    Attributes:
        made: when, ISO 8601 in UTC.
        machine: ``hardware.machine.machine_identity()`` of the machine.
        versions: of the libraries, by name.
        threads: numbers of threads that were measured, ascending.
        noise: how well times repeat here, by name: shares, see ``calibrate.noise``.
        samples: how many there were.
        fitted: the parameters, as ``costmodels.laws.fit.fit`` gives them.
    """

    made: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    threads: tuple[int, ...]
    noise: Mapping[str, float]
    samples: int
    fitted: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data; inverse of :meth:`from_json`."""
        return {
            "schema": SCHEMA,
            "made": self.made,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "threads": list(self.threads),
            "noise": dict(self.noise),
            "samples": self.samples,
            "fitted": dict(self.fitted),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """The profile behind :meth:`to_json`'s data.

        Raises:
            KeyError, TypeError, ValueError: not such data; the message says what is wrong.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {data.get('schema')!r}, not {SCHEMA!r}")
        datetime.fromisoformat(data["made"])
        for name in ("machine", "versions", "noise", "fitted"):
            if not isinstance(data[name], dict):
                raise TypeError(f"{name!r} is no mapping")
        return cls(
            made=data["made"],
            machine=data["machine"],
            versions=data["versions"],
            threads=tuple(int(count) for count in data["threads"]),
            noise={name: float(share) for name, share in data["noise"].items()},
            samples=int(data["samples"]),
            fitted=data["fitted"],
        )


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a profile must agree with to be used.

    Attributes:
        machine: as ``Profile.machine``.
        versions: as ``Profile.versions``.
        threads: of this process; None where it does not matter.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class FoundProfile:
    """What reading gave: a profile to use, or why there is none.

    Attributes:
        profile: None if none is to be used.
        problem: one sentence with the remedy; None if all is well, or if nobody ever calibrated.
        path: of the file.
    """

    profile: Profile | None
    problem: str | None
    path: Path


@functools.cache
def library_versions() -> Mapping[str, str]:
    """Versions of :data:`LIBRARIES`, of those that are installed; nothing is imported."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def conditions(threads: int | None = None) -> Conditions:
    """This machine and its libraries, as a profile is compared with."""
    return Conditions(machine=machine_identity(), versions=library_versions(), threads=threads)


def profile_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where this user's profile lies: ``calibration`` in the cache folder.

    Args:
        cache_dir: the setting of that name; ``DJINN_CACHE_DIR``, else the platform's cache folder, if None.
    """
    root = Path(cache_dir).expanduser().absolute() if cache_dir else default_cache_dir()
    return root / "calibration"


def write_profile(profile: Profile, folder: Path) -> Path:
    """Keep a profile in its folder; returns the file.

    Raises:
        StoreError: the folder is not this user's own, or cannot be written.
    """
    return write_checked(folder / PROFILE_FILE, profile.to_json())


def write_samples(samples: Sequence[Sample], folder: Path) -> Path:
    """Keep the samples beside the profile, for later fits; returns the file.

    Raises:
        StoreError: as :func:`write_profile`.
    """
    return write_checked(folder / SAMPLES_FILE, [sample.to_json() for sample in samples])


def read_profile(folder: Path, here: Conditions | None = None) -> FoundProfile:
    """The profile in a folder, if it is whole and was made under conditions like these. Never raises.

    Args:
        folder: see :func:`profile_folder`.
        here: None takes a profile of any machine, for reports.
    """
    path = folder / PROFILE_FILE
    try:
        profile = Profile.from_json(read_checked(path))
    except FileNotFoundError:
        return FoundProfile(profile=None, problem=None, path=path)
    except OSError as error:
        return _unusable(path, f"cannot be read ({error.strerror or error})")
    except NotOurs as error:
        return _unusable(path, f"was not made by you: {error}")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        return _unusable(path, f"is damaged: {what}")
    stale = staleness(profile, here) if here is not None else None
    if stale is not None:
        return _unusable(path, f"of {profile.made[:10]} does not fit: {stale}")
    return FoundProfile(profile=profile, problem=None, path=path)


def staleness(profile: Profile, here: Conditions) -> str | None:
    """What differs between then and now; None if nothing does."""
    for what, then, now in (("machine", profile.machine, here.machine), ("versions", profile.versions, here.versions)):
        # Through JSON, as the file went: a tuple comes back as a list.
        changed = _difference(then, json.loads(json.dumps(dict(now))))
        if changed:
            return f"{changed} ({'another machine' if what == 'machine' else 'other versions'})"
    if here.threads is not None and here.threads not in profile.threads:
        counts = ", ".join(map(str, profile.threads))
        return f"measured with {counts} threads, this process uses {here.threads}"
    return None


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first name whose value changed, with both values."""
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            return f"{name} was {_shown(then.get(name))}, is {_shown(now.get(name))}"
    return None


def _shown(value: Any) -> str:
    return "absent" if value is None else f"{value!s:.60}"


def _unusable(path: Path, what: str) -> FoundProfile:
    problem = f"calibration profile {path} {what}; it is not used: run `djinn calibrate`"
    return FoundProfile(profile=None, problem=problem, path=path)


def write_checked(target: Path, content: Any) -> Path:
    """Write JSON with a checksum and a signature, whole or not at all: mode 0600, in a folder of mode 0700.

    Raises:
        StoreError: the folder is not this user's own, or cannot be written.
    """
    text = seal(target.name, content, allow_nan=False)
    try:
        own_folder(target.parent)
        write_atomic(target, [text], scratch=target.parent)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def read_checked(path: Path) -> Any:
    """The content of a file of :func:`write_checked`.

    Raises:
        OSError: it cannot be read.
        ValueError: it was cut, changed, is another user's or signed with another key, or is no such file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or (os.name == "posix" and status.st_uid != os.geteuid()):
            raise ValueError("it is not a regular file of this user")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"{status.st_size} bytes are too many")
        return unseal(path.name, stream.read(MAX_BYTES))
