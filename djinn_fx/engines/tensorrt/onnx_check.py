"""Is the exported model the region? Both are run on the same random numbers, ONNX Runtime against eager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.tensorrt.conversion import FromNetwork
from djinn_fx.engines.tensorrt.onnx_fallback import OnnxConversion

#: The types the whole model may be in for ONNX Runtime's CPU to have kernels for it. For bfloat16 it has next to none.
RUNNABLE = (torch.float32, torch.float16)


def run_with_onnxruntime(conversion: OnnxConversion, arguments: Sequence[Any]) -> tuple[list[Any], dict[int, Any]]:
    """The network's part of a call.

    Args:
        conversion: the model.
        arguments: the region's.

    Returns:
        the model's outputs, in order, and what is to be copied into each argument.

    Raises:
        Exception: ONNX Runtime's own, where it has no kernel for an op and a type.
    """
    import onnxruntime

    from djinn_fx.engines.tensorrt.onnx_model import for_others

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # As it stands: what is checked is the model, not ONNX Runtime's own rewriting of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(for_others(conversion.model), options, providers=["CPUExecutionProvider"])
    feeds = {
        f"in{place}": arguments[index].detach().contiguous().numpy() for place, index in enumerate(conversion.inputs)
    }
    results = [torch.from_numpy(value) for value in session.run(None, feeds)]
    return results, {one.input: results[one.output] for one in conversion.copies}


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
    results, written = run_with_onnxruntime(conversion, arguments)
    for place, output in enumerate(conversion.outputs):
        if isinstance(output, FromNetwork):
            torch.testing.assert_close(
                results[output.output],
                expected[place].contiguous(),
                rtol=rtol,
                atol=atol,
                equal_nan=True,
                check_stride=False,
                msg=lambda text, place=place: f"output {place}: {text}",  # type: ignore[misc]
            )
    changed = {
        index
        for index, (before, after) in enumerate(zip(arguments, mine, strict=True))
        if isinstance(before, torch.Tensor) and not torch.equal(before, after)
    }
    assert changed <= set(written), f"arguments {sorted(changed - set(written))} are written and not copied back"
    for index, value in written.items():
        torch.testing.assert_close(value, mine[index].contiguous(), rtol=rtol, atol=atol, equal_nan=True)
