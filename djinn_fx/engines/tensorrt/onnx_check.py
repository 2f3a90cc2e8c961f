"""Is the exported model the region? Both are run on the same numbers, ONNX's own runtimes against eager.

ONNX Runtime's CPU kernels run float32, float16 and whole numbers. For bfloat16 it has next to none, so a model that
holds any is run by the reference evaluator of the package ``onnx`` instead: numpy, and slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.tensorrt.conversion import FromNetwork
from djinn_fx.engines.tensorrt.onnx_fallback import OnnxConversion


def run(conversion: OnnxConversion, arguments: Sequence[Any]) -> tuple[list[torch.Tensor], dict[int, torch.Tensor]]:
    """The network's part of a call.

    Args:
        conversion: the model.
        arguments: the region's, on the CPU.

    Returns:
        the model's outputs, in order, and what is to be copied into each argument.

    Raises:
        Exception: the runtime's own, where it has no kernel for an op and a type.
    """
    from djinn_fx.engines.tensorrt.onnx_model import for_others, holds_bfloat16

    feeds = {f"in{place}": _to_numpy(arguments[index]) for place, index in enumerate(conversion.inputs)}
    model = for_others(conversion.model)
    results = [_to_torch(one) for one in (_by_reference if holds_bfloat16(model) else _by_runtime)(model, feeds)]
    return results, {one.input: results[one.output] for one in conversion.copies}


def _by_runtime(model: bytes, feeds: Mapping[str, Any]) -> Sequence[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # As it stands: what is checked is the model, not ONNX Runtime's own rewriting of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    results: Sequence[Any] = session.run(None, dict(feeds))
    return results


def _by_reference(model: bytes, feeds: Mapping[str, Any]) -> Sequence[Any]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    results: Any = ReferenceEvaluator(onnx.load_from_string(model)).run(None, dict(feeds))
    return list(results)


def _to_numpy(tensor: torch.Tensor) -> Any:
    value = tensor.detach().contiguous()
    if value.dtype is not torch.bfloat16:
        return value.numpy()
    import ml_dtypes  # comes with onnx

    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _to_torch(value: Any) -> torch.Tensor:
    if str(value.dtype) != "bfloat16":
        return torch.from_numpy(value.copy())
    return torch.from_numpy(value.view("int16").copy()).view(torch.bfloat16)


def check_with_onnxruntime(
    conversion: OnnxConversion,
    region: RegionGraph,
    arguments: Sequence[Any],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Run the model and the region on the same arguments and compare what they give and what they write.

    Args:
        conversion: the model.
        region: what it was made of.
        arguments: tensors on the CPU, sizes and numbers, one per input of the region; they are not changed.
        rtol: allowed difference, relative to the region's own result.
        atol: the same, absolute.

    Raises:
        AssertionError: what differs.
    """
    mine = [one.clone() if isinstance(one, torch.Tensor) else one for one in arguments]
    with torch.no_grad():
        expected = region.gm(*mine)
    results, written = run(conversion, arguments)
    for place, output in enumerate(conversion.outputs):
        if isinstance(output, FromNetwork):
            _compare(results[output.output], expected[place], f"output {place}", rtol, atol)
    changed = {
        index
        for index, (before, after) in enumerate(zip(arguments, mine, strict=True))
        if isinstance(before, torch.Tensor) and not torch.equal(before, after)
    }
    assert changed <= set(written), f"arguments {sorted(changed - set(written))} are written and not copied back"
    for index, value in written.items():
        _compare(value, mine[index], f"argument {index}, written", rtol, atol)


def _compare(found: torch.Tensor, expected: torch.Tensor, what: str, rtol: float, atol: float) -> None:
    torch.testing.assert_close(
        found,
        expected.contiguous(),
        rtol=rtol,
        atol=atol,
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )
