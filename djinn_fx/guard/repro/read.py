"""Reads a reproducer directory. It may come from anybody, so it is data: checked, bounded, and nothing in it is run.

The region is rebuilt from its canonical form (:mod:`djinn_fx.srg.form.rebuild`), which looks names up and evaluates no
code; here only operators of ATen and prims that torch's dispatcher knows are let through. Arrays are read without
pickle, their sizes compared with the file's before memory is taken. The artefact is only read when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from djinn_fx.engines.base import RegionGraph
from djinn_fx.errors import StoreError
from djinn_fx.guard.repro.recorded import (
    INPUTS,
    PAYLOAD,
    REGION,
    NumberRecord,
    Recorded,
    TensorRecord,
    array_dtype,
    from_array,
)
from djinn_fx.guard.trial import writable
from djinn_fx.pool.limits import available_bytes
from djinn_fx.srg.form.hashing import structural_hash
from djinn_fx.srg.form.rebuild import CannotRebuild, SizeHint, rebuild
from djinn_fx.store import files
from djinn_fx.store.format import DamagedEntry

#: No directory written here is nearly as large.
MAX_REGION_BYTES, MAX_PAYLOAD_BYTES = 64_000_000, 2_000_000_000
#: Memory that the arguments may take together; those that were too large to be kept are made here in full.
MAX_ARGUMENT_BYTES = 16_000_000_000
#: Devices that hold numbers.
_DEVICES = frozenset({"cpu", "cuda", "xpu", "mps"})
_NAMESPACES = ("aten.", "prims.")


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A directory, read.

    Attributes:
        record: what it says.
        region: rebuilt.
        folder: the directory.
    """

    record: Recorded
    region: RegionGraph
    folder: Path

    @property
    def drawn(self) -> list[int]:
        """Places of the arguments that random numbers stand for."""
        return [place for place, one in enumerate(self.record.inputs) if getattr(one, "drawn", None) is not None]

    def arguments(self) -> list[Any]:
        """The arguments, each time in memory of their own.

        Raises:
            StoreError: an array is missing, damaged or not what it should be, or a device is not there.
        """
        return _arguments(self.folder, self.record.inputs)

    def payload(self) -> bytes:
        """The artefact.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        if not self.record.payload or self.record.header is None:
            raise StoreError(f"{self.folder} holds no artefact: run without --use-payload")
        return _bytes(self.folder / PAYLOAD, MAX_PAYLOAD_BYTES)


def read(folder: Path) -> Reproduced:
    """A reproducer directory.

    Raises:
        StoreError: it is none, is damaged, or its region cannot be rebuilt here: what, where, and what to do.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder} is no directory: give the one that the warning named")
    text = _bytes(folder / REGION, MAX_REGION_BYTES)
    try:
        record = Recorded.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise StoreError(f"{folder / REGION}: {where}: {first['msg']}; it is damaged, or of another version") from error
    try:
        region = _region(record)
    except CannotRebuild as error:
        raise StoreError(f"{folder / REGION}: the region cannot be rebuilt here: {error}") from error
    _check_inputs(folder, record, region)
    return Reproduced(record=record, region=region, folder=folder)


def _region(record: Recorded) -> RegionGraph:
    _check_ops(record.form)
    hints = [SizeHint(value=value, positive=positive) for value, positive in record.hints]
    made = rebuild(record.form, hints=hints, devices=record.devices)
    return RegionGraph(
        gm=made.gm,
        structural_hash=structural_hash(record.form),
        canonical=record.form,
        example_inputs=made.example_inputs,
        label=record.label,
        kind=record.region_kind,
        weights=tuple(record.weights),
    )


def _check_ops(form: Any) -> None:
    """Only operators that torch's dispatcher runs: torch also knows names that open files.

    Raises:
        CannotRebuild: another one, or no form at all.
    """
    for name in _op_names(form):
        if not isinstance(name, str):
            raise CannotRebuild("an op without a name")
        family, _, _ = name.partition(".")
        if family in ("operator", "math", "torch"):
            continue  # looked up in a short list
        if not name.startswith(_NAMESPACES):
            raise CannotRebuild(f"{name[:100]} is no operator of ATen or prims")
        base, _, overload = name.removeprefix(f"{family}.").rpartition(".")
        qualified = f"{family}::{base}" + ("" if overload == "default" else f".{overload}")
        if not torch._C._dispatch_has_kernel(qualified):
            raise CannotRebuild(f"{name[:100]} is no operator that torch dispatches")


def _op_names(form: Any) -> Iterator[Any]:
    """Every op's target, and every operator among the literals."""
    ops = form.get("ops") if isinstance(form, dict) else None
    if not isinstance(ops, list) or not all(isinstance(op, list) and len(op) == 4 for op in ops):
        raise CannotRebuild("the form has no list of ops")
    for op in ops:
        yield op[0]
        yield from _literal_names(op[1:3])


def _literal_names(literal: Any) -> Iterator[Any]:
    pending = [literal]
    while pending:
        one = pending.pop()
        if not isinstance(one, (list, tuple)):
            continue
        if len(one) == 2 and one[0] == "op":
            yield one[1]
        elif len(one) == 2 and one[0] == "graph":
            yield from _op_names(one[1])
        else:
            pending.extend(one)


def _check_inputs(folder: Path, record: Recorded, region: RegionGraph) -> None:
    """The arguments must be such as the region takes."""

    def refuse(what: str) -> StoreError:
        return StoreError(f"{folder / REGION}: {what}; the directory is damaged")

    if len(record.inputs) != len(region.example_inputs):
        raise refuse(f"{len(record.inputs)} arguments for {len(region.example_inputs)} inputs")
    if any(not 0 <= place < len(record.inputs) for place in (*record.weights, *record.mutated)):
        raise refuse("a weight or a written argument has no place among the inputs")
    for place, (one, example) in enumerate(zip(record.inputs, region.example_inputs, strict=True)):
        if isinstance(example, torch.Tensor) != isinstance(one, TensorRecord):
            raise refuse(f"argument {place} is a {one.kind}, the region takes another")
        if isinstance(one, TensorRecord) and isinstance(example, torch.Tensor):
            sizes: Sequence[Any] = example.shape
            fits = len(sizes) == len(one.shape) == len(one.strides) and all(
                type(size) is not int or size == mine for size, mine in zip(sizes, one.shape, strict=True)
            )
            if not fits or str(example.dtype) != f"torch.{one.dtype}":
                raise refuse(f"argument {place} is {one.dtype} {one.shape}, the region takes {example.dtype} {sizes}")
            kind = one.device.split(":")[0]
            if kind != example.device.type or kind not in _DEVICES:
                raise refuse(f"argument {place} is on {one.device}, the region takes it on {example.device.type}")
            if min((*one.shape, *one.strides), default=0) < 0:
                raise refuse(f"argument {place} has negative sizes or strides")
    if any(not isinstance(record.inputs[place], TensorRecord) for place in record.mutated):
        raise refuse("a written argument is no tensor")


# Arguments


def _arguments(folder: Path, records: Sequence[TensorRecord | NumberRecord]) -> list[Any]:
    tensors = {place: one for place, one in enumerate(records) if isinstance(one, TensorRecord)}
    memory: dict[int, torch.Tensor] = {}
    reach: dict[int, int] = {}
    try:
        for one in tensors.values():
            reach[one.storage] = max(reach.get(one.storage, 0), one.reach)
        needed = sum(reach[number] * one.torch_dtype.itemsize for number, one in _firsts(tensors.values()))
        # Elements that overlap in memory are drawn or read apart before they are copied there.
        apart = max((math.prod(one.compact) * max(4, one.torch_dtype.itemsize) for one in tensors.values()), default=0)
        if needed + apart > (allowed := _allowed_bytes()):
            raise StoreError(
                f"{folder / REGION}: its arguments take {(needed + apart) / 1e9:.1f} GB, more than the "
                f"{allowed / 1e9:.1f} GB that are allowed; on a machine with more free memory it may be run"
            )
        for number, one in _firsts(tensors.values()):
            memory[number] = torch.zeros(reach[number], dtype=one.torch_dtype, device=one.device)
        made = [
            _tensor(folder, place, one, memory[one.storage]) if isinstance(one, TensorRecord) else one.value()
            for place, one in enumerate(records)
        ]
    except (ValueError, RuntimeError, AssertionError) as error:  # no such type, no such device, no memory
        text = str(error).strip().splitlines()
        raise StoreError(f"{folder}: its arguments cannot be made here: {text[0] if text else error!r}") from error
    return made


def _allowed_bytes() -> int:
    """What arguments may take: no more than half of the memory that is free."""
    free = available_bytes()
    return MAX_ARGUMENT_BYTES if free is None else min(MAX_ARGUMENT_BYTES, free // 2)


def _firsts(records: Any) -> list[tuple[int, TensorRecord]]:
    """The first record of each storage."""
    found: dict[int, TensorRecord] = {}
    for one in records:
        first = found.setdefault(one.storage, one)
        if (first.dtype, first.device) != (one.dtype, one.device):
            raise ValueError("arguments of different types share memory")
    return list(found.items())


def _tensor(folder: Path, place: int, record: TensorRecord, memory: torch.Tensor) -> torch.Tensor:
    if not math.prod(record.shape):
        return torch.empty_strided(record.shape, record.strides, dtype=record.torch_dtype, device=record.device)
    tensor = memory.as_strided(record.shape, record.strides, record.offset)
    values = _drawn(record) if record.drawn is not None else _array(folder / INPUTS / f"{place}.npy", record)
    writable(tensor).copy_(values)
    return tensor


def _drawn(record: TensorRecord) -> torch.Tensor:
    drawn = record.drawn
    assert drawn is not None, "asked by the caller"
    generator = torch.Generator().manual_seed(drawn.seed)
    values = torch.randn(record.compact, generator=generator, dtype=torch.float32).mul_(drawn.std).add_(drawn.mean)
    return values.clamp_(drawn.low, drawn.high).to(record.torch_dtype)


def _array(path: Path, record: TensorRecord) -> torch.Tensor:
    """An array of the type and sizes that the record says.

    Raises:
        StoreError: it is another, or damaged.
    """
    wanted = array_dtype(record.torch_dtype)
    try:
        stream, status = files.open_own(path)
        with stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise DamagedEntry(f"a header of version {version}")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            if (shape, dtype) != (record.compact, wanted) or (fortran and len(shape) > 1):
                raise DamagedEntry(f"it holds {dtype} {shape}, not {wanted} {record.compact}")
            nbytes = math.prod(shape) * wanted.itemsize
            if status.st_size != stream.tell() + nbytes:
                raise DamagedEntry(f"it has {status.st_size} bytes, not {stream.tell() + nbytes}")
            content = stream.read(nbytes)
    except (DamagedEntry, OSError, ValueError) as error:
        raise StoreError(f"{path}: {error}; the directory is damaged") from error
    return from_array(np.frombuffer(content, dtype=wanted).reshape(shape), record.torch_dtype)


def _bytes(path: Path, limit: int) -> bytes:
    try:
        stream, status = files.open_own(path)
        with stream:
            if status.st_size > limit:
                raise DamagedEntry(f"{status.st_size} bytes are too many")
            content: bytes = stream.read(limit + 1)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing: this is no reproducer directory, or a part of one") from error
    except (DamagedEntry, OSError) as error:
        raise StoreError(f"{path}: {error}") from error
    return content
