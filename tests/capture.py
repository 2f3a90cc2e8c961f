"""Getting SRGs out of a callable: what the backend sees, without compiling anything."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

from djinn_fx.srg import SRG, GraphKind, Residency, lower


def capture(
    model: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    training: bool = False,
    dynamic: bool | None = None,
    loss_of: Callable[[Any], torch.Tensor] | None = None,
) -> list[SRG]:
    """The graphs of one call, in the order AOTAutograd hands them over: lowered, with residency set, no pass run.

    Args:
        model: a module or a function; it is run once.
        args: positional arguments; caches among them are changed by the call.
        kwargs: keyword arguments.
        training: also run a backward pass, from the sum of all floating outputs unless ``loss_of`` is given.
        dynamic: as in ``torch.compile``.
        loss_of: the scalar to differentiate.
    """
    torch._dynamo.reset()
    found: list[SRG] = []

    def backend(gm: GraphModule, example_inputs: list[Any]) -> Any:
        residency = [_residency_of(value) for value in example_inputs]

        def keep(kind: GraphKind) -> Callable[[GraphModule, Sequence[Any]], Any]:
            def compiler(aten: GraphModule, _: Sequence[Any]) -> Any:
                found.append(lower(aten, kind, _residency_by_name(aten, residency, kind)))
                return make_boxed_func(aten.forward)

            return compiler

        return aot_autograd(
            fw_compiler=keep(GraphKind.FORWARD),
            bw_compiler=keep(GraphKind.BACKWARD),
            inference_compiler=keep(GraphKind.INFERENCE),
            keep_inference_input_mutations=True,
        )(gm, example_inputs)

    compiled = torch.compile(model, backend=backend, dynamic=dynamic)
    gc.disable()  # tracing makes many objects, none of them garbage yet: a sixth of the time
    try:
        with torch.set_grad_enabled(training):
            output = compiled(*args, **(kwargs or {}))
            if training:
                (loss_of or sum_of_floats)(output).backward()
    finally:
        gc.enable()
        torch._dynamo.reset()
    return found


def sum_of_floats(output: Any) -> torch.Tensor:
    """The sum over all floating tensors that need a gradient, in tensors, tuples, lists and mappings."""
    tensors = _tensors(output)
    total = torch.zeros(())
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.requires_grad:
            total = total + tensor.float().sum()
    return total


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _residency_of(value: Any) -> Residency:
    """What Dynamo's example input is: it hands parameters over as such and marks buffers as static."""
    if isinstance(value, torch.nn.Parameter):
        return Residency.PARAMETER
    if getattr(value, "_dynamo_static_input_type", None) is not None:
        return Residency.BUFFER
    return Residency.INPUT


def _residency_by_name(aten: GraphModule, residency: list[Residency], kind: GraphKind) -> dict[str, Residency]:
    """By placeholder name, where AOTAutograd has kept the inputs one for one."""
    names = [node.name for node in aten.graph.find_nodes(op="placeholder")]
    if kind is GraphKind.BACKWARD or len(names) != len(residency):
        return {}
    return dict(zip(names, residency, strict=True))
