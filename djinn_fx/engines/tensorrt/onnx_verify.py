"""Does the exporter say what the graph says? Both are run on random numbers before the model is handed on.

The exporter has been found to write some ops as other ones. Those are refused by name, but there may be more: so the
graph that was given to it and the model that came out of it can be run here, on the CPU, whatever device the region
is for. What no runtime can run here is not refused: the first run on the device compares with eager anyway.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter

from djinn_fx.engines.tensorrt.onnx_run import run_model
from djinn_fx.srg.graph import size_hint

log = logging.getLogger("djinn_fx.engines.tensorrt.onnx_verify")

#: Regions with larger inputs are not run: random weights of that size take as long as the export, and memory.
MAX_BYTES = 1 << 30

#: Allowed difference as a share of the largest number of a result; half precision rounds in the inputs of ops already.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def difference(model: bytes, gm: GraphModule) -> str | None:
    """Where the model gives other numbers than the graph it was made of.

    Args:
        model: its inputs and outputs are those of the graph, in order.
        gm: takes tensors and returns a tuple of tensors; fake values in ``meta["val"]``.

    Returns:
        one sentence; None if they agree, or if one of the two could not be run here.
    """
    fakes = [node.meta["val"] for node in gm.graph.find_nodes(op="placeholder")]
    if sum(math.prod(map(size_hint, fake.shape)) * fake.element_size() for fake in fakes) > MAX_BYTES:
        log.debug("too large to be checked by running it")
        return None
    arguments = [_random(fake, seed) for seed, fake in enumerate(fakes)]
    try:
        with torch.no_grad():
            expected: Sequence[torch.Tensor] = _OnCpu(gm).run(*arguments)
        found = run_model(model, arguments)
    except Exception as error:  # noqa: BLE001  (indices out of range, no kernel, no runtime: said in the log)
        log.debug("not checked by running it: %s", error)
        return None
    for place, pair in enumerate(zip(found, expected, strict=True)):
        problem = _unlike(*pair)
        if problem:
            return f"result {place} {problem}"
    return None


class _OnCpu(Interpreter):
    """Runs a graph that was traced for any device on the CPU."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """As the base class does, tensors made here being made on the CPU."""
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        args = tuple(torch.device("cpu") if isinstance(one, torch.device) else one for one in args)
        return super().call_function(target, args, kwargs)


def _random(fake: torch.Tensor, seed: int) -> torch.Tensor:
    """Numbers of this type and these sizes; whole numbers are 0 and 1, which are indices nearly everywhere."""
    generator = torch.Generator().manual_seed(seed)
    shape = [size_hint(size) for size in fake.shape]
    if fake.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(fake.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(fake.dtype)


def _unlike(found: torch.Tensor, expected: torch.Tensor) -> str:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        wanted = f"{expected.dtype} {list(expected.shape)}"
        return f"is {found.dtype} {list(found.shape)} instead of {wanted}"
    if not expected.dtype.is_floating_point:
        wrong = int((found != expected).sum())
        return f"has {wrong} of {expected.numel()} numbers other than torch" if wrong else ""
    one, two = found.double(), expected.double()
    if not torch.equal(one.isfinite(), two.isfinite()) or not torch.equal(one.isnan(), two.isnan()):
        return "is infinite or NaN in other places than torch's"
    finite = two.isfinite()
    if not bool(finite.any()):
        return ""
    apart, largest = float((one - two)[finite].abs().max()), float(two[finite].abs().max())
    allowed = _TOLERANCE[expected.dtype] * largest + 1e-6
    return f"differs from torch's by {apart:.3g} where {allowed:.3g} is allowed" if apart > allowed else ""
