"""ONNX Runtime called with vectors of values: the one use of its Python binding's inner layer, where that works.

Whether it does is tried once a process, on a value made and read back. If not, sessions go by IO bindings alone, which
costs some microseconds more a call.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from djinn_fx.engines.optional import optional

log = logging.getLogger("djinn_fx.engines")

#: Where tensors without elements are said to be: torch says nowhere, which ONNX Runtime does not take.
_SOMEWHERE = torch.empty(8)


class Vectors:
    """Makes vectors of tensors, and tensors of vectors.

    Args:
        native: the inner layer.
    """

    def __init__(self, native: Any) -> None:
        self._empty = native.OrtValueVector
        self._cpu = native.OrtDevice(native.OrtDevice.cpu(), native.OrtDevice.default_memory(), 0)

    def of(self, tensors: Sequence[torch.Tensor], types: Sequence[Any]) -> Any:
        """Contiguous tensors of these numpy types as values over the same memory."""
        values = self._empty()
        pointers = [tensor.data_ptr() or _SOMEWHERE.data_ptr() for tensor in tensors]
        values.push_back_batch(tensors, pointers, types, [t.shape for t in tensors], [self._cpu] * len(tensors))
        return values

    def tensors(self, values: Any) -> list[Any]:
        """Values as the tensors that own them from now on."""
        found: list[Any] = values.to_dlpacks(torch._C._from_dlpack)
        return found

    def run(self, session: Any, options: Any, names: list[str], feeds: Any, outputs: list[str]) -> list[Any]:
        """What a session answers."""
        found = self._empty()
        session.run_with_ortvaluevector(options, names, feeds, outputs, found, [self._cpu] * len(outputs))
        return self.tensors(found)


@functools.cache
def usable() -> Vectors | None:
    """The vectors of the version that is installed; None where they are not what this module knows."""
    try:
        vectors = Vectors(optional("onnxruntime.capi._pybind_state"))
        with unset_fake_temporarily():
            one = torch.arange(3.0)
            (back,) = vectors.tensors(vectors.of([one], [np.float32]))
            if back.data_ptr() == one.data_ptr() and torch.equal(back, one):
                return vectors
    except Exception:  # an inner layer that moved: IO bindings do the same, so nothing falls back
        log.debug("onnxruntime: vectors of values cannot be used here", exc_info=True)
    return None
