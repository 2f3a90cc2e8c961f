"""What being sure of values adds to a model: nodes and looks at arguments, counted; no time is asserted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.engines.conditions import graphs, whole, without_conditions
from djinn_fx.engines.onnx.convert import convert

onnx = pytest.importorskip("onnx")
pytest.importorskip("transformers")

#: By case: nodes of the model that conditions add (those on weights are gone once these are constants), and arguments
#: that are looked at before a call: a decoder's tokens and how far each layer's cache is filled. They must not grow.
MOST = {
    "gpt2/decode": (0, 3),
    "llama/decode": (0, 3),
    "bloom/decode": (0, 3),
    "bert/encode": (0, 4),
    "vit/encode": (3, 0),
    "resnet/encode": (96, 0),
}


@pytest.mark.parametrize("case", MOST)
def test_conditions_add_little_to_a_model(case: str) -> None:
    for graph, _, weights in graphs(case, quick=True):
        region = whole(graph, weights)
        for flavour in ("onnxruntime", "openvino"):
            made = convert(region, flavour)
            with without_conditions():
                plain = convert(region, flavour)
            added = _nodes(made.model) - _nodes(plain.model)
            looked_at = len(made.signature.program.places)
            assert (added <= MOST[case][0], looked_at <= MOST[case][1]) == (True, True), (flavour, added, looked_at)


def _nodes(model: bytes) -> int:
    return len(onnx.ModelProto.FromString(model).graph.node)
