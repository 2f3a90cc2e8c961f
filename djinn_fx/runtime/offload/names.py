"""Which stored tensor belongs to which tensor of a model: names, tied weights, shapes, types."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from djinn_fx.errors import ModelFileError, did_you_mean
from djinn_fx.runtime.offload.plan import Weight
from djinn_fx.runtime.offload.shards import Shards, span_of
from djinn_fx.runtime.offload.stored import Stored, StoredTensor

#: The format's words for element types that torch has.
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip
#: So many misfits are told in one error.
_TOLD = 8


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One tensor of the model, under all its names."""

    names: tuple[str, ...]
    places: tuple[tuple[nn.Module, str], ...]
    tensor: torch.Tensor
    is_parameter: bool


def slots_of(model: nn.Module) -> Iterator[Slot]:
    """Parameters and saved buffers, each once, in the order in which the model registers them."""
    found: dict[int, tuple[torch.Tensor, list[str], list[tuple[nn.Module, str]]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        saved = ((n, b) for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set)
        for name, tensor in (*module._parameters.items(), *saved):
            if tensor is not None:
                _, names, places = found.setdefault(id(tensor), (tensor, [], []))
                names.append(f"{path}.{name}" if path else name)
                if (module, name) not in places:
                    places.append((module, name))
    for tensor, names, places in found.values():
        yield Slot(
            names=tuple(names), places=tuple(places), tensor=tensor, is_parameter=isinstance(tensor, nn.Parameter)
        )


def matched(slots: tuple[Slot, ...], stored: Stored, strict: bool) -> list[StoredTensor]:
    """The stored tensor of each slot."""
    wrong: list[str] = []
    chosen: list[StoredTensor] = []
    known = {name for slot in slots for name in slot.names}
    spare = [name for name in stored.tensors if name not in known]
    for slot in slots:
        one = next((stored.tensors[name] for name in slot.names if name in stored.tensors), None)
        if one is None:
            wrong.append(f"{slot.names[0]!r} is not in the files" + did_you_mean(slot.names[0], spare))
            continue
        chosen.append(one)
        wrong += _misfits(slot, one)
    if strict:
        lacking = [slot.names[0] for slot in slots if not any(name in stored.tensors for name in slot.names)]
        wrong += [
            f"{name!r} is in the files and not in the model" + did_you_mean(name, lacking or known) for name in spare
        ]
    if wrong:
        more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        raise ModelFileError(f"{stored.files[0].parent} does not fit the model: " + "; ".join(wrong[:_TOLD]) + more)
    return chosen


def _misfits(slot: Slot, one: StoredTensor) -> list[str]:
    dtype = DTYPES.get(one.dtype)
    if dtype is None:
        return [f"{one.name!r} has the type {one.dtype}, which torch has not"]
    wrong = []
    if tuple(slot.tensor.shape) != one.shape:
        wrong.append(f"{one.name!r} has the shape {one.shape}, and {tuple(slot.tensor.shape)} in the model")
    if slot.tensor.dtype != dtype:
        wrong.append(
            f"{one.name!r} is {dtype}, and {slot.tensor.dtype} in the model (build it so: model.to({dtype}) on "
            "the meta device)"
        )
    if not wrong and math.prod(one.shape) * dtype.itemsize != one.size:
        wrong.append(f"{one.name!r} has {one.size} bytes, which is not what its shape and type say")
    return wrong


def same_under_all_names(slot: Slot, stored: Stored, shards: Shards) -> None:
    """Files that hold a tied weight twice must hold the same numbers."""
    found = [stored.tensors[name] for name in slot.names if name in stored.tensors]
    for other in found[1:]:
        if shards.differ((found[0].file, found[0].start), (other.file, other.start), found[0].size):
            raise ModelFileError(
                f"{found[0].name!r} and {other.name!r} are one weight in the model, and differ in the files: build the "
                "model without tying them"
            )


def planned(slot: Slot, one: StoredTensor) -> Weight:
    others = [m for m, _ in slot.places if not (isinstance(m, nn.Embedding) and m.max_norm is None)]
    return Weight(
        name=slot.names[0],
        size=span_of(one.start, one.size)[1],
        uses=max(1, len(others)),
        by_rows=not others,
    )
