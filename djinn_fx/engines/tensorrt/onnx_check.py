"""Is the exported model the region? Both are run on the same numbers, ONNX's own runtimes against eager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.tensorrt.conversion import FromNetwork
from djinn_fx.engines.tensorrt.onnx_fallback import OnnxConversion
from djinn_fx.engines.tensorrt.onnx_run import run_model


def run(conversion: OnnxConversion, arguments: Sequence[Any]) -> tuple[list[torch.Tensor], dict[int, torch.Tensor]]:
    """The network's part of a call.

    Args:
        conversion: the model.
        arguments: the region's, on the CPU.

    Returns:
        the model's outputs, in order, and what is to be copied into each argument.

    Raises:
        Exception: as :func:`run_model`.
    """
    results = run_model(conversion.model, [arguments[index] for index in conversion.inputs])
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
