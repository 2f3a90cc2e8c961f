"""Writes a reproducer directory: what ``djinn repro`` needs to see a wrong answer again, without the user's program.

It holds what the region was called with, weights included. So it is the user's alone (0700), lies in the disk cache's
folder and goes nowhere by itself; at most 8 directories and 256 MB are kept, the oldest go first. Where that is not
enough, the largest floating tensors, weights first, are replaced by a seed and statistics.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.keys import device_order
from djinn_fx.errors import DjinnError
from djinn_fx.guard.repro.recorded import (
    EXPECTED,
    FOUND,
    INPUTS,
    PAYLOAD,
    README,
    REGION,
    Drawn,
    NumberRecord,
    Recorded,
    TensorRecord,
    to_array,
)
from djinn_fx.guard.trial import writable
from djinn_fx.settings.table import Settings
from djinn_fx.srg.effects import written_places
from djinn_fx.srg.form.rebuild import CannotRebuild, size_hints
from djinn_fx.store import files
from djinn_fx.units import now_text

log = logging.getLogger("djinn_fx.guard")

FOLDER = "repro"
MAX_DIRECTORIES, MAX_BYTES = 8, 256_000_000
#: One directory may not drive out all others.
MAX_DIRECTORY_BYTES = 128_000_000
_OWN = re.compile(r"\d{8}-\d{6}-[a-z0-9_-]+-[0-9a-f]{8}")
_UNFINISHED = ".unfinished-"
#: An unfinished directory this old was left by a process that died.
_STALE_S = 3600.0
_CACHE_NAMES = frozenset({"entries", "negative", "locks", "scratch", "last-miss.json", FOLDER})


@dataclass(frozen=True, kw_only=True)
class Reproducer:
    """Writes reproducers of one region and engine; see ``guarded``.

    Attributes:
        region: what is run.
        engine: whose answers are checked.
        fingerprint: the engine's.
        settings: in force.
        root: the cache's folder; None: nothing is written.
        artefact: gives something with a ``header`` and a ``payload``, or None: asked only when there is a miss.
    """

    region: RegionGraph
    engine: str
    fingerprint: Mapping[str, str]
    settings: Settings
    root: Path | None
    artefact: Callable[[], Any] | None = field(default=None, repr=False)

    def __call__(self, args: Sequence[Any], found: Sequence[Any], expected: Sequence[Any], why: str) -> Path | None:
        """Write one.

        Args:
            args: the arguments as they were before the call.
            found: the engine's results; none if it is not known.
            expected: eager's.
            why: what is wrong.

        Returns:
            The directory; None, with the cause logged, if it could not be written.
        """
        if self.root is None:
            return None
        try:
            return self._write(self.root, args, found, expected, why)
        except (OSError, DjinnError, CannotRebuild, ValueError, TypeError, RuntimeError) as error:
            log.warning("no reproducer of region %s: %s", self.region.label, error)
            return None

    def _write(self, root: Path, args: Sequence[Any], found: Sequence[Any], expected: Sequence[Any], why: str) -> Path:
        if self.region.canonical is None:
            raise CannotRebuild("the region has no canonical form")
        inputs, kept, spent = _inputs(args, self.region.weights, MAX_DIRECTORY_BYTES)
        artefact = self.artefact() if self.artefact is not None else None
        payload = getattr(artefact, "payload", None) or b""
        if spent + len(payload) > MAX_DIRECTORY_BYTES:
            payload = b""
        spent += len(payload)
        results = [one for one in (*found, *expected) if isinstance(one, torch.Tensor)]
        keep_results = bool(found) and spent + sum(map(_nbytes, results)) <= MAX_DIRECTORY_BYTES
        record = Recorded(
            engine=self.engine,
            label=self.region.label[:1000],
            region_kind=self.region.kind,  # type: ignore[arg-type]
            form=self.region.canonical,
            hints=[
                (hint.value, hint.positive) for hint in size_hints(self.region.canonical, self.region.example_inputs)
            ],
            devices=_devices(self.region),
            weights=list(self.region.weights),
            mutated=list(written_places(self.region.gm.graph)),
            inputs=inputs,
            settings=_compiling(self.settings),
            fingerprint=dict(self.fingerprint),
            threads=torch.get_num_threads(),
            wrong=why[:10_000],
            created=now_text(),
            header=dict(artefact.header) if payload and artefact is not None else None,
            payload=bool(payload),
            results=keep_results,
        )
        arrays = {INPUTS: kept}
        if keep_results:
            arrays |= {FOUND: _tensors(found), EXPECTED: _tensors(expected)}
        return _put(root, record, arrays, payload)


def _inputs(
    args: Sequence[Any], weights: Sequence[int], room: int
) -> tuple[list[TensorRecord | NumberRecord], dict[int, torch.Tensor], int]:
    """Records of the arguments, the tensors to keep whole by place, and their bytes.

    Raises:
        ValueError: they do not fit even without the floating ones, or hold what cannot be written down.
    """
    places = {place: one for place, one in enumerate(args) if isinstance(one, torch.Tensor)}
    spent = sum(_nbytes(writable(one)) for one in places.values())
    dropped: set[int] = set()
    for place in sorted(places, key=lambda place: (place not in weights, -_nbytes(writable(places[place])))):
        if spent > room and places[place].is_floating_point():
            spent -= _nbytes(writable(places[place]))
            dropped.add(place)
    if spent > room:
        raise ValueError(f"its inputs take {spent / 1e6:.0f} MB, more than is kept")
    starts: dict[Any, tuple[int, int]] = {}
    for one in places.values():
        number, start = starts.get(_memory(one), (len(starts), int(one.storage_offset())))
        starts[_memory(one)] = number, min(start, int(one.storage_offset()))
    records: list[TensorRecord | NumberRecord] = []
    for place, one in enumerate(args):
        if isinstance(one, torch.Tensor):
            records.append(_record(one, starts[_memory(one)], place if place in dropped else None))
        else:
            records.append(NumberRecord.of(one))
    return records, {place: one for place, one in places.items() if place not in dropped}, spent


def _memory(tensor: torch.Tensor) -> Any:
    """Tensors of other types in one memory are kept apart: each gets its own."""
    return tensor.device, tensor.dtype, tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)


def _record(tensor: torch.Tensor, memory: tuple[int, int], seed: int | None) -> TensorRecord:
    if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
        raise ValueError(f"an argument with layout {tensor.layout} or a pending conjugation cannot be written down")
    number, start = memory
    drawn = None
    if seed is not None:
        finite = tensor.detach().double()
        finite = finite[finite.isfinite()]
        low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
        mean, std = (float(finite.mean()), float(finite.std(correction=0))) if finite.numel() else (0.0, 0.0)
        drawn = Drawn(seed=seed, mean=mean, std=std, low=low, high=high)
    return TensorRecord(
        dtype=str(tensor.dtype).removeprefix("torch."),
        device=str(tensor.device),
        shape=list(tensor.shape),
        strides=list(tensor.stride()),
        offset=int(tensor.storage_offset()) - start,
        storage=number,
        drawn=drawn,
    )


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensors(values: Sequence[Any]) -> dict[int, torch.Tensor]:
    return {place: one for place, one in enumerate(values) if isinstance(one, torch.Tensor)}


def _devices(region: RegionGraph) -> dict[str, str]:
    """The device that each numbered one of the region's form is.

    Raises:
        CannotRebuild: it is on several devices of one type; which is which does not show in the form.
    """
    names: dict[str, str] = {}
    for text in device_order(node.meta.get("val") for node in region.gm.graph.nodes):
        device = torch.device(text)
        if device.index is not None and device.type != "cpu" and names.setdefault(f"{device.type}#0", text) != text:
            raise CannotRebuild(f"the region is on several devices of the type {device.type}")
    return names


def _compiling(settings: Settings) -> dict[str, Any]:
    """The settings that change what is compiled, as far as JSON can hold them."""
    values: dict[str, Any] = {}
    for name, info in Settings.model_fields.items():
        extra = info.json_schema_extra
        value = getattr(settings, name)
        simple = isinstance(value, (str, int, float, bool)) or (
            isinstance(value, tuple) and all(isinstance(one, str) for one in value)
        )
        if isinstance(extra, dict) and extra.get("compiles") and simple:
            values[name] = list(value) if isinstance(value, tuple) else value
    return values


# On disk


def _put(root: Path, record: Recorded, arrays: Mapping[str, Mapping[int, torch.Tensor]], payload: bytes) -> Path:
    files.make_private(root, own_names=_CACHE_NAMES)
    home = root / FOLDER
    files.make_private(home)
    made = home / f"{_UNFINISHED}{secrets.token_hex(8)}"
    made.mkdir(mode=0o700)
    try:
        _file(made / REGION, record.model_dump_json().encode())
        if payload:
            _file(made / PAYLOAD, payload)
        for folder, tensors in arrays.items():
            (made / folder).mkdir(mode=0o700)
            for place, tensor in tensors.items():
                with open(made / folder / f"{place}.npy", "xb", opener=_private) as stream:
                    np.save(stream, to_array(writable(tensor)), allow_pickle=False)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        final = home / f"{stamp}-{record.engine}-{secrets.token_hex(4)}"
        _file(made / README, readme(record, final).encode())
        _make_room(home, _size(made))
        os.rename(made, final)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return final


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _file(path: Path, content: bytes) -> None:
    with open(path, "xb", opener=_private) as stream:
        stream.write(content)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def _make_room(home: Path, wanted: int) -> None:
    """Delete the oldest directories until one more of this size may come. Only what bears a name given here."""
    own = sorted(
        path for path in home.iterdir() if _OWN.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )
    sizes = {}
    for path in own:
        with suppress(OSError):  # another process deletes too
            sizes[path] = _size(path)
    while sizes and (len(sizes) >= MAX_DIRECTORIES or sum(sizes.values()) + wanted > MAX_BYTES):
        oldest = next(iter(sizes))
        shutil.rmtree(oldest, ignore_errors=True)
        del sizes[oldest]
    for path in home.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)


def readme(record: Recorded, folder: Path) -> str:
    """What a person who opens the directory wants to know."""
    drawn = [
        place for place, one in enumerate(record.inputs) if isinstance(one, TensorRecord) and one.drawn is not None
    ]
    lines = [
        f"The engine {record.engine} gave another answer than eager for a region of a compiled model.",
        "",
        f"Region:  {record.label!r}, {record.region_kind}, {len(record.form.get('ops', ()))} ops",
        f"When:    {record.created}",
        f"Wrong:   {record.wrong}",
        "",
        "Run the region alone, eagerly, in float64 and by the engine, and compare:",
        "",
        f"    djinn repro {shlex.quote(str(folder))}",
        "",
        f"{REGION} holds the region and the settings, {INPUTS}/ the arguments it was called with, the model's weights",
        "among them: look at it before you give it to anybody.",
        "",
        "The command compiles the region anew. With --use-payload it loads the stored artefact instead, if there is",
        "one. That may hold machine code (Inductor's does), so do this only with a directory of your own.",
    ]
    if drawn:
        lines += [
            "",
            f"The arguments {json.dumps(drawn)} were too large to keep. Random numbers of the same mean and spread",
            "take their place, with which the wrong answer may not show.",
        ]
    return "\n".join(lines) + "\n"
