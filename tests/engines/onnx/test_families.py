"""Whole graphs of Transformers models through the converter and a runtime, compared with their own ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.onnx.values import Refused
from tests.engines.onnx.running import FLAVOURS, Converted
from tests.families import all_cases, case_named

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

#: A decoder with a cache that is written, an encoder with padding, a convolutional network.
QUICK = ("llama/decode-fixed", "bert/padded", "resnet/encode")
#: What is refused, by a part of the refusal: experts are chosen by data, and ONNX has no complex numbers.
REFUSED = {"mixtral": "aten.", "qwen2_moe": "aten.", "fnet": "complex64"}


def _graphs(name: str, dynamic: bool | None) -> list[tuple[GraphModule, list[Any]]]:
    """The graphs of a case and what each is called with."""
    model, args, kwargs = case_named(name).make()
    found: list[tuple[GraphModule, list[Any]]] = []

    def compiler(graph: GraphModule, _: Any) -> Any:
        def run(*given: Any) -> Any:
            found.append((graph, _copied(given)))
            return graph(*given)

        return make_boxed_func(run)

    backend = aot_autograd(fw_compiler=compiler, inference_compiler=compiler, keep_inference_input_mutations=True)
    torch._dynamo.reset()
    try:
        with torch.no_grad():
            torch.compile(model, backend=backend, dynamic=dynamic)(*args, **kwargs)
    finally:
        torch._dynamo.reset()
    return found


def _copied(given: Any) -> list[Any]:
    return [one.detach().clone() if isinstance(one, torch.Tensor) else one for one in given]


def _compare(graph: GraphModule, given: list[Any], flavour: str) -> None:
    fakes = tuple(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder"))
    region = RegionGraph(
        gm=graph, structural_hash="", canonical=None, example_inputs=fakes, label="whole", kind="inference"
    )
    converted = Converted(region, flavour)
    mine, other = _copied(given), _copied(given)
    with torch.no_grad():
        found, expected = converted(*mine), graph(*other)
    for one, two in zip([*found, *mine], [*expected, *other], strict=True):
        if not isinstance(two, torch.Tensor):
            assert one == two
            continue
        largest = two.double().nan_to_num(0, 0, 0).abs().max().item() if two.numel() else 1.0
        torch.testing.assert_close(one, two, rtol=2e-4, atol=2e-5 * max(1.0, largest), equal_nan=True)
        assert one.stride() == two.stride()


@pytest.mark.parametrize("name", QUICK)
def test_a_whole_model(name: str) -> None:
    for graph, given in _graphs(name, None):
        for flavour in FLAVOURS:
            _compare(graph, given, flavour)


def test_one_conversion_for_all_sizes() -> None:
    for graph, given in _graphs("bert/encode", True):
        assert any(isinstance(node.meta["val"], torch.SymInt) for node in graph.graph.find_nodes(op="placeholder"))
        _compare(graph, given, "onnxruntime")


@pytest.mark.exam
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", [case.name for case in all_cases() if case.name not in QUICK])
def test_every_case(name: str, flavour: str) -> None:
    wanted = REFUSED.get(name.split("/")[0])
    for graph, given in _graphs(name, None):
        if wanted is None:
            _compare(graph, given, flavour)
        else:
            with pytest.raises(Refused, match=wanted):
                _compare(graph, given, flavour)
