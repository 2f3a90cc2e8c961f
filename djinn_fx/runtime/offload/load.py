"""``load_offloaded``: a model without weights and a folder of safetensors become a model that runs within a budget."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn

from djinn_fx.errors import OffloadError, SettingsError
from djinn_fx.runtime.offload.buffers import fill_computed_buffers, move_buffers
from djinn_fx.runtime.offload.handle import OffloadedWeight
from djinn_fx.runtime.offload.names import DTYPES, Slot, matched, planned, same_under_all_names, slots_of
from djinn_fx.runtime.offload.places import place_of
from djinn_fx.runtime.offload.plan import SMALL_BYTES, Room, residency
from djinn_fx.runtime.offload.shards import Shards
from djinn_fx.runtime.offload.stored import stored_in
from djinn_fx.runtime.offload.weights import Weights
from djinn_fx.units import parse_bytes

M = TypeVar("M", bound=nn.Module)

#: Kept for activations where nothing is said: this share of the budget, and at least so much.
_WORKING_SHARE, _WORKING_BYTES = 0.1, 64 << 20


def load_offloaded(
    model: M,
    folder: str | os.PathLike[str],
    budget: str | int = "2GB",
    *,
    working: str | int | None = None,
    held: str | int | None = None,
    strict: bool = True,
    device: str | torch.device = "cpu",
    host: str | int = 0,
) -> M:
    """Let a model run whose weights do not fit into memory: they are read from their files while it runs.

    The same object is returned, in evaluation mode. Its parameters keep names, shapes and types and are read-only: each
    operator that needs one is lent it. A part that fits stays in memory; the rest is read on every call, while those
    before it are computed with. Calls from several threads take turns.

    Args:
        model: built on the meta device, or within :func:`djinn_fx.parameters_on_meta`; tied weights stay so.
        folder: with ``model.safetensors`` or with shards and their index; or one file.
        budget: memory of this process, or of the device, such as ``"2GB"``, or bytes.
        working: of these, kept free for activations and caches; by default a tenth of the budget. Where more is needed,
            weights that were to stay are let go, with a reason in :func:`djinn_fx.offload_status`.
        held: what the process takes without the model, or what is taken on the device; by default what is now.
        strict: whether tensors in the files that the model has no place for are an error.
        device: where the model runs: ``"cpu"``, or a CUDA device.
        host: for a CUDA device, pinned memory of the host for weights that do not stay on the device: these are read
            from the files once.

    Raises:
        ModelFileError: the files are missing, damaged or cut short, or do not fit the model: names, shapes, types.
        SettingsError: the budget cannot be read or is too small; names what binds and the smallest that does. There is
            no such device.
        OffloadError: the model is offloaded already.
    """
    if isinstance(model, _Offloaded):
        raise OffloadError(
            f"this {type(model).__name__} is offloaded already: build another for another folder or budget"
        )
    total, place = _bytes(budget), place_of(device, _bytes(host))
    room = Room(
        budget=total,
        held=place.held() if held is None else _bytes(held),
        working=max(_WORKING_BYTES, int(_WORKING_SHARE * total)) if working is None else _bytes(working),
    )
    stored = stored_in(folder)
    slots = tuple(slots_of(model))
    chosen = matched(slots, stored, strict)
    fill_computed_buffers(model)
    plan = residency([planned(slot, one) for slot, one in zip(slots, chosen, strict=True)], room)
    shards = Shards(stored.files)
    for slot in slots:
        same_under_all_names(slot, stored, shards)
    weights = Weights(chosen, [DTYPES[one.dtype] for one in chosen], shards, plan, room, place)
    for key, slot in enumerate(slots):
        _place(slot, weights, key)
    move_buffers(model, place.device)
    model.eval()
    model.__dict__["_offloaded_weights"] = weights
    model.__class__ = _class_for(type(model))  # type: ignore[assignment,arg-type]
    return model


def weights_of(model: nn.Module) -> Weights:
    """What lends a model its weights.

    Raises:
        OffloadError: the model is not an offloaded one.
    """
    found = vars(getattr(model, "_orig_mod", model)).get("_offloaded_weights")
    if not isinstance(found, Weights):
        raise OffloadError(f"this {type(model).__name__} is not offloaded: djinn_fx.load_offloaded makes it so")
    return found


def _bytes(value: str | int) -> int:
    found = parse_bytes(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise SettingsError(f'{value!r} is no amount of memory: write "2GB", or bytes as a whole number')
    return found


def _place(slot: Slot, weights: Weights, key: int) -> None:
    """Give the model its handle, or a small buffer's own numbers, which may be written."""
    one = weights.stored[key]
    value: torch.Tensor
    if not slot.is_parameter and one.size <= SMALL_BYTES:
        with weights.lease(key) as lent:
            value = lent.clone()
    else:
        value = OffloadedWeight(weights, key, torch.empty(one.shape, dtype=weights.dtypes[key], device="meta"))
        if slot.is_parameter:
            value = nn.Parameter(value, requires_grad=False)
    for module, name in slot.places:
        setattr(module, name, value)


# -- the model ---------------------------------------------------------------------------------------------------------


class _Offloaded(nn.Module):
    """What an offloaded model does otherwise than its own class."""

    def train(self, mode: bool = True) -> _Offloaded:
        """Only ``train(False)``: there is nothing to train."""
        if mode:
            raise OffloadError(
                "an offloaded model does not train: its weights are read-only; load it in memory for that"
            )
        return super().train(False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> _Offloaded:
        """``.to()`` and its like: nothing, if nothing would change; else refused before anything has changed."""
        for dtype in {tensor.dtype for tensor in (*self.parameters(), *self.buffers())}:
            before = torch.empty(0, dtype=dtype, device=weights_of(self).place.device)
            after = fn(before)
            if after.dtype != dtype or after.device != before.device:
                raise OffloadError(
                    f"an offloaded model stays where it is, with the types of its files: it cannot go from {dtype} on "
                    f"{before.device} to {after.dtype} on {after.device}; save the weights so, and load that"
                )
        return self

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise OffloadError("an offloaded model cannot be copied: build another and call load_offloaded again")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise OffloadError("an offloaded model cannot be pickled: its weights are in their files; keep the folder")


@functools.cache
def _class_for(kind: type[nn.Module]) -> type[nn.Module]:
    """The model's class with the above before it, so that it is still an instance of its own."""

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with weights_of(self).one_pass():
            return kind.forward(self, *args, **kwargs)

    why = "weights of an offloaded model are lent operator by operator: it runs as it is"
    members = {"forward": torch.compiler.disable(forward, reason=why), "__doc__": kind.__doc__}
    return type("Offloaded" + kind.__name__, (_Offloaded, kind), {**members, "__module__": kind.__module__})
