"""The tensors in a folder of safetensors: their names, shapes and places. Reads headers only; no torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from djinn_fx.errors import ModelFileError

#: The file that says which shard a tensor lies in, as Transformers and others write it.
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor in a file.

    Attributes:
        name: its key.
        file: number of its file in :attr:`Stored.files`.
        start: where its bytes begin in the file.
        size: how many there are.
        dtype: the format's word for its element type, such as ``"BF16"``.
        shape: its sizes.
    """

    name: str
    file: int
    start: int
    size: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a folder holds.

    Attributes:
        files: the safetensors files.
        tensors: by name.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]


def stored_in(folder: str | os.PathLike[str]) -> Stored:
    """The tensors of a folder (one file, or shards with their index) or of a single file.

    Raises:
        ModelFileError: there is no such file, it is damaged or cut short, or the index and the shards do not agree.
    """
    place = Path(folder)
    if place.is_file():
        return _union((place,))
    if not place.is_dir():
        raise ModelFileError(f"{place} is neither a folder nor a file: give the folder that holds the safetensors")
    if (place / INDEX).is_file():
        return _indexed(place)
    files = (place / SINGLE,) if (place / SINGLE).is_file() else tuple(sorted(place.glob("*.safetensors")))
    if not files:
        raise ModelFileError(f"{place} holds no safetensors file; save the weights with safetensors.torch.save_file")
    return _union(files)


def _union(files: tuple[Path, ...]) -> Stored:
    tensors: dict[str, StoredTensor] = {}
    for number, file in enumerate(files):
        for one in _header(file, number):
            if one.name in tensors:
                other = files[tensors[one.name].file].name
                raise ModelFileError(f"{one.name!r} is in {other} and in {file.name}: an index ({INDEX}) must choose")
            tensors[one.name] = one
    return Stored(files=files, tensors=tensors)


def _indexed(folder: Path) -> Stored:
    """The tensors that the index lists, each from the shard that it names."""
    index = folder / INDEX
    try:
        places = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted({str(name) for name in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{index} is no index of shards: {error!r}") from error
    for name in names:
        if Path(name).name != name:
            raise ModelFileError(f"{index} names the shard {name!r}, which is not in its folder")
    files = tuple(folder / name for name in names)
    held = {(one.name, one.file): one for number, file in enumerate(files) for one in _header(file, number)}
    number_of = {name: number for number, name in enumerate(names)}
    tensors = {}
    for name, shard in places.items():
        found = held.get((name, number_of[shard]))
        if found is None:
            raise ModelFileError(f"{index} says that {name!r} is in {shard}, but it is not there")
        tensors[name] = found
    return Stored(files=files, tensors=tensors)


def _header(file: Path, number: int) -> list[StoredTensor]:
    """What one file holds; safetensors' own reader judges whether the file is whole."""
    try:
        with safe_open(str(file), framework="numpy"):
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
            entries = json.loads(opened.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFileError(f"{file} cannot be read as safetensors, it may be cut short: {error}") from error
    first = _LENGTH_BYTES + length
    found = []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        found.append(
            StoredTensor(
                name=name, file=number, start=first + begin, size=end - begin, dtype=entry["dtype"], shape=shape
            )
        )
    return found


def elements(tensor: StoredTensor) -> int:
    """How many elements a tensor has."""
    return math.prod(tensor.shape)
