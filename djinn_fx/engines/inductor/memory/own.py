"""How many bytes a compiled region takes beside its arguments, as the text of what Inductor wrote says."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from djinn_fx.costmodels.memory.allocators import live_increase
from djinn_fx.engines.base import LIVE_BYTES
from djinn_fx.engines.inductor.memory.buffers import memory_plan_of
from djinn_fx.errors import EngineError
from djinn_fx.srg.graph import size_hint
from djinn_fx.srg.memory import Holds, MemoryRow

log = logging.getLogger("djinn_fx.engines.inductor")


def as_header(modules: Sequence[ModuleType], inputs: Sequence[Any]) -> dict[str, int]:
    """What goes into the header of a region's artefact, at the example's sizes; nothing where it cannot be told.

    Args:
        modules: that were made for the region.
        inputs: the region's example inputs.
    """
    tensors = [one for one in inputs if isinstance(one, torch.Tensor)]
    if len(modules) != 1 or any(one.device.type != "cpu" or one.layout is not torch.strided for one in tensors):
        return {}
    rows = [
        MemoryRow(
            name=f"input {place}",
            holds=Holds.INPUT,
            nbytes=size_hint(one.untyped_storage().nbytes()),
            start=0,
            end=1,
            device="cpu",
            given=True,
        )
        for place, one in enumerate(tensors)
    ]
    sizes = [size for one in inputs for size in (one.shape if isinstance(one, torch.Tensor) else (one,))]
    values = {str(one.node.expr): size_hint(one) for one in sizes if isinstance(one, torch.SymInt)}
    dtypes = [str(one.dtype).removeprefix("torch.") for one in tensors]
    try:
        source = Path(str(modules[0].__file__)).read_text()
        plan = memory_plan_of(source, rows, dtypes, values=values, threads=torch.get_num_threads())
    except (OSError, EngineError) as error:
        log.info("what a region takes is not known: %s", error)
        return {}
    return {LIVE_BYTES: live_increase(plan, "cpu")}
