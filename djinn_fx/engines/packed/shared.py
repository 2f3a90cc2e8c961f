"""One packed copy of a weight for all graphs and sizes: prefill's session and decode's hold the same.

oneDNN's layout for one number of rows serves any other as well. MKL's does not, so its copies are not shared.
"""

from __future__ import annotations

import weakref

import torch

from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.threads import new_lock

_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


class Pack:
    """A weight as oneDNN wants it, for as long as a session holds it.

    Attributes:
        tensor: the packed weight.
        bytes: the weight's own size.
        holders: the sessions that hold it.
    """

    def __init__(self, tensor: torch.Tensor, nbytes: int) -> None:
        self.tensor, self.bytes = tensor, nbytes
        self.holders: weakref.WeakSet[Packs] = weakref.WeakSet()


class Packs:
    """Those of one session, and dropped with it."""

    def __init__(self) -> None:
        self._packs: list[Pack] = []

    def pack(self, weight: torch.Tensor, rows: int) -> torch.Tensor:
        """The packed weight: another session's, if it is this very weight's, else a new one.

        Args:
            weight: [n, k].
            rows: of the products that the session does.
        """
        with _LOCK:
            key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype)
            found = _KNOWN.get(key)
            # The weight may have been written to since it was packed: only its bits tell.
            if found is None or not _is(found.tensor, weight):
                made = packed_ops.pack_onednn_op()(weight, rows)
                found = _KNOWN[key] = Pack(made, weight.numel() * weight.element_size())
            found.holders.add(self)
            self._packs.append(found)
        return found.tensor

    @property
    def memory_bytes(self) -> int:
        """Of one that several sessions hold, its share."""
        return sum(pack.bytes // max(1, len(pack.holders)) for pack in self._packs)


_LOCK = new_lock()
_KNOWN: weakref.WeakValueDictionary[object, Pack] = weakref.WeakValueDictionary()


def _is(packed: torch.Tensor, weight: torch.Tensor) -> bool:
    plain, bits = packed.to_dense(), _BITS[weight.dtype]
    return torch.equal(plain.view(bits), weight.view(bits))
