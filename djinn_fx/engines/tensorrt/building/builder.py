"""What a child process runs for a plan that nobody's first answer will be held against eager's before it is used.

The model is run beside its graph first, on the CPU and on random numbers, whatever device the region is for. What ONNX
Runtime cannot run here is not refused.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Interpreter

from djinn_fx.engines.bound.signature import Given
from djinn_fx.engines.lowering.formulas import evaluate_all
from djinn_fx.engines.tensorrt.building import worker
from djinn_fx.engines.tensorrt.building.rehearsal import Rehearsal
from djinn_fx.engines.tensorrt.run.calling import Calling
from djinn_fx.pool.jobs import BuildError
from djinn_fx.srg.form.rebuild import CannotRebuild, SizeHint, rebuild
from djinn_fx.srg.graph import size_hint

log = logging.getLogger("djinn_fx.engines.tensorrt")

#: Regions with larger inputs are not run: random weights of that size take seconds, and memory.
MAX_BYTES = 1 << 28

#: Allowed difference as a share of the largest number of a result; half precision rounds in the inputs of ops already.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def build(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Run a model beside its graph and build a plan of it.

    Args:
        request: as for :func:`djinn_fx.engines.tensorrt.building.worker.build`, and ``form`` (the region's canonical
            form) and ``hints``.
        blobs: the model.

    Raises:
        BuildError: stage ``convert``: the model gives other numbers than torch; else as the worker.
    """
    hints = [SizeHint(value=value, positive=positive) for value, positive in request["hints"]]
    problem = difference(request["form"], hints, blobs[0], Calling.from_json(request["calling"]))
    if problem is not None:
        raise BuildError(f"the model gives other numbers than torch: {problem}", stage="convert")
    return worker.build({key: value for key, value in request.items() if key not in ("form", "hints")}, blobs)


def difference(form: Any, hints: Sequence[SizeHint], model: bytes, calling: Calling) -> str | None:
    """Where a model gives other numbers than the graph it was made of.

    Returns:
        one sentence; None if they agree, or if one of the two could not be run here.
    """
    try:
        rebuilt = rebuild(form, hints=hints, devices=_any_device(form))
        fakes = rebuilt.example_inputs
        if sum(math.prod(map(size_hint, one.shape)) * one.element_size() for one in _tensors(fakes)) > MAX_BYTES:
            log.debug("too large to be checked by running it")
            return None
        arguments = [_random(fake, seed) for seed, fake in enumerate(fakes)]
        given = [arguments[one.argument] for one in calling.inputs]
        found = Rehearsal(model)([one.clone() for one in given])
        symbols = calling.symbols(arguments)
        with torch.no_grad():
            expected = list(_OnCpu(rebuilt.gm).run(*arguments))
    except CannotRebuild as error:
        log.debug("not checked by running it: %s", error)
        return None
    except Exception as error:  # noqa: BLE001  (indices out of range, no kernel, no runtime: said in the log)
        log.debug("not checked by running it: %s", error)
        return None
    if calling.flag is not None and not bool(found[calling.flag]):
        return None  # these numbers are torch's to answer
    pairs = [
        (f"result {place}", _shown(found[one.output], one, symbols), expected[place])
        for place, one in enumerate(calling.results)
        if isinstance(one, Given)
    ]
    pairs += [(f"argument {one.input}", found[one.output], arguments[one.input]) for one in calling.copies]
    problems = (f"{name} {problem}" for name, mine, other in pairs if (problem := _unlike(mine, other)))
    return next(problems, None)


def _shown(made: torch.Tensor, one: Given, symbols: Mapping[str, int]) -> torch.Tensor:
    if not one.dense:
        return made
    return made.as_strided(evaluate_all(one.sizes or (), symbols), evaluate_all(one.strides or (), symbols))


def _any_device(form: Any) -> dict[str, str]:
    """A real name for every numbered device of the form: fake tensors need one."""
    text = json.dumps(form)
    return {f"cuda#{number}": f"cuda:{number}" for number in range(16) if f'"cuda#{number}"' in text}


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    return [one for one in values if isinstance(one, torch.Tensor)]


class _OnCpu(Interpreter):
    """Runs a graph that was traced for any device on the CPU."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """As the base class does, tensors made here being made on the CPU."""
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        args = tuple(torch.device("cpu") if isinstance(one, torch.device) else one for one in args)
        return super().call_function(target, args, kwargs)


def _random(fake: Any, seed: int) -> Any:
    """Numbers of this type and these sizes; whole numbers are 0 and 1, which are indices nearly everywhere."""
    if not isinstance(fake, torch.Tensor):
        return size_hint(fake) if isinstance(fake, torch.SymInt) else fake
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
