"""The child's side of a build: no torch, the same bytes each time, ONNX models, errors that say where they arose."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.engines.tensorrt import flavour as flavours
from djinn_fx.engines.tensorrt import parse_onnx, trial
from djinn_fx.engines.tensorrt.evaluate import evaluate
from djinn_fx.engines.tensorrt.network import Network, NetworkWriter
from djinn_fx.engines.tensorrt.worker import build
from djinn_fx.pool.jobs import BuildError
from tests.engines.tensorrt.making import RANGES, needs_tensorrt, one_layer, told, trt

FLAVOUR = "tensorrt_rtx"

#: Builds what comes as JSON on standard input; says what it built and what it had to import.
CHILD = """
import hashlib, json, pathlib, re, sys
from djinn_fx.engines.tensorrt.worker import build
request = json.load(sys.stdin)
header, plan = build(request, ())
print(json.dumps({
    "digest": hashlib.sha256(plan).hexdigest(), "header": header, "slow": sorted({"torch", "numpy"} & set(sys.modules)),
    "kilobytes": int(re.search(r"VmHWM:\\s*([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1])
    if sys.platform == "linux" else 0,
}))
"""


def network(node: str = "") -> Network:
    """A product and a softmax, of as many rows as may be."""
    writer = NetworkWriter()
    a, b = writer.input(told("float16", "k0", 8, 16)), writer.input(told("float16", 1, 16, 32))
    writer.node = node
    product = told("float16", "k0", 8, 32)
    c = writer.one("matmul", [a, b], product, transpose_a=False, transpose_b=False)
    return writer.network([writer.one("softmax", [c], product, axis=2)], RANGES)


def request(**more: Any) -> dict[str, Any]:
    """A request for it."""
    return {"network": network().to_json(), "flavour": FLAVOUR, "target": "sm89", "options": {}, **more}


def refusal(asked: dict[str, Any], *blobs: bytes) -> BuildError:
    """The error a request is answered with."""
    with pytest.raises(BuildError) as caught:
        build(asked, blobs)
    return caught.value


@needs_tensorrt
def test_a_child_needs_no_torch_and_plans_are_the_same_byte_for_byte() -> None:
    answers = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=json.dumps(request()),
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
        )
        answers.append(json.loads(done.stdout))
    assert not answers[0]["slow"]
    assert answers[0]["kilobytes"] < 500_000
    here = build({**request(), "network": network(node="another layer of the model").to_json()}, ())
    assert answers[0]["digest"] == answers[1]["digest"] == hashlib.sha256(here[1]).hexdigest()
    assert answers[0]["header"] == here[0]


def several_symbols(node: str = "") -> Network:
    """Heads split off rows of which there are k0 times k1: sizes that TensorRT has to compute."""
    writer = NetworkWriter()
    x = writer.input(told("float16", "k0", "k1", 256))
    writer.node = node
    sizes = {"reshape": [0, 0, 4, 64], "second": [0, 2, 1, 3], "zero_keeps": True}
    q = writer.one("shuffle", [x], told("float16", "k0", 4, "k1", 64), **sizes)
    made = writer.one("attention", [q, q, q], told("float16", "k0", 4, "k1", 64), causal="lower_right")
    return writer.network([made, q], RANGES)


@pytest.mark.skipif(sys.platform != "linux", reason="address randomization is switched off in Linux's way")
@needs_tensorrt
def test_plans_of_several_symbols_are_nearly_always_the_same_byte_for_byte_on_request() -> None:
    asked = request(options={"reproducible": True})
    builds = [build({**asked, "network": several_symbols(f"layer {10**n}").to_json()}, ()) for n in range(3)]
    assert builds[0][0] == builds[1][0] == builds[2][0]
    plans = [plan for _, plan in builds]
    assert len(set(plans)) <= 2  # two numberings of the expressions have been seen; about 1 plan in 16 has the rarer
    assert all(sum(a != b for a, b in zip(plans[0], plan, strict=True)) < 100 for plan in plans)
    usual = build({**asked, "network": several_symbols().to_json(), "options": {}}, ())
    assert usual[0] == builds[0][0]
    assert len(usual[1]) == len(builds[0][1])
    broken = refusal(
        {**asked, "network": one_layer("cast", [told("bool", 1)], [told("int32", 2)], dtype="int32").to_json()}
    )
    assert broken.stage == "convert"


@needs_tensorrt
def test_the_header_says_what_the_plan_takes_and_gives() -> None:
    header, plan = build(request(), ())
    assert header["inputs"] == [["input0", "float16", [-1, 8, 16]], ["input1", "float16", [1, 16, 32]]]
    assert header["outputs"] == [["output0", "float16", [-1, 8, 32]]]
    assert (header["engine"], header["flavour"], header["target"]) == ("tensorrt", FLAVOUR, "sm89")
    assert header["version"] == trt.__version__
    assert json.loads(json.dumps(header)) == header
    assert len(plan) > 1000


@needs_tensorrt
def test_an_updated_cache_shares_its_inputs_memory() -> None:
    cache = told("float16", 1, 2, 16, 8)
    made = one_layer("kv_update", [cache, told("float16", 1, 2, 3, 8), told("int32", 1)], [cache])
    assert build(request(network=made.to_json()), ())[0]["aliases"] == [["output0", "input0"]]


@needs_tensorrt
def test_options_change_the_plan_and_unknown_ones_are_refused() -> None:
    writer = NetworkWriter()
    a, b = writer.input(told("float32", 64, 64)), writer.input(told("float32", 64, 64))
    c = writer.one("matmul", [a, b], told("float32", 64, 64), transpose_a=False, transpose_b=False)
    product = writer.network([c], {}).to_json()
    exact, fast = (build(request(network=product, options={"tf32": on}), ())[1] for on in (False, True))
    assert exact != fast
    for options in ({"fp16": True}, {"tf32": 1}, {"workspace_bytes": -1}, ["tf32"]):
        assert refusal(request(options=options)).stage == "support"


@needs_tensorrt
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"target": "sm90"}, "no target sm90"),
        ({"target": "nonsense"}, "no target nonsense"),
        ({"target": 89}, "no names"),
        ({"flavour": "nonsense"}, "no TensorRT named"),
        ({"flavour": ["tensorrt"]}, "no names"),
    ],
)
def test_what_cannot_be_had_is_said(asked: dict[str, Any], words: str) -> None:
    error = refusal(request(**asked))
    assert error.stage == "support"
    assert words in error.detail


@pytest.mark.skipif(bool(flavours.Flavour("tensorrt").version), reason="data-centre TensorRT is installed")
def test_a_missing_library_is_an_answer() -> None:
    capability = flavours.Flavour("tensorrt").capability()
    assert not capability.can_build
    assert not capability.can_run
    assert "pip install" in capability.why_not
    assert "pip install" in refusal(request(flavour="tensorrt")).detail


@pytest.mark.skipif(not flavours.gpu_problem(), reason="there is a GPU here")
@needs_tensorrt
def test_without_a_gpu_plans_are_built_for_named_targets_only() -> None:
    capability = flavours.Flavour(FLAVOUR).capability()
    assert capability.can_build
    assert not capability.can_run
    assert "sm89" in capability.targets
    assert "current" not in capability.targets
    assert "NVIDIA" in refusal(request(target=None)).detail


@needs_tensorrt
@pytest.mark.parametrize(
    "description",
    [None, 3, {}, {"schema": 1}, {**network().to_json(), "schema": 0}, {**network().to_json(), "layers": [3]}],
)
def test_a_description_that_is_none(description: Any) -> None:
    assert refusal(request(network=description)).stage == "convert"


@needs_tensorrt
def test_a_failed_build_names_the_node_of_the_layer_tensorrt_names() -> None:
    """It knows that a cache is no network input only when it builds."""
    writer = NetworkWriter()
    cache = told("float16", 1, 2, 16, 8)
    given = [writer.input(one) for one in (cache, told("float16", 1, 2, 3, 8), told("int32", 1))]
    copied = writer.one("identity", [given[0]], cache)
    writer.node = "index_put_5"
    made = writer.one("kv_update", [copied, *given[1:]], cache)
    error = refusal(request(network=writer.network([made], {}).to_json()))
    assert (error.stage, error.node) == ("build", "index_put_5")
    assert "must be a network input" in error.detail


def model(op: str, inputs: list[tuple[str, int, list[Any]]], dtype: int = 1, **more: Any) -> bytes:
    """An ONNX model of one node."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    names = [name for name, _, _ in inputs]
    node = helper.make_node(op, names, ["out0"], name="node_7", **more)
    shape = inputs[0][2]
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, kind, size) for name, kind, size in inputs],
        [helper.make_tensor_value_info("out0", dtype, shape)],
    )
    opset = helper.make_opsetid("", 23)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())


def onnx_request(**more: Any) -> dict[str, Any]:
    """A request for a plan of a model."""
    return {"onnx": True, "flavour": FLAVOUR, "target": "sm89", "ranges": {"k0": [1, 3, 8]}, **more}


@needs_tensorrt
def test_a_plan_of_an_onnx_model() -> None:
    pair = [("in0", 1, ["k0", 4]), ("in1", 1, ["k0", 4])]
    header, plan = build(onnx_request(), [model("Sub", pair)])
    assert [name for name, _, _ in header["inputs"]] == ["input0", "input1"]
    assert header["outputs"] == [["output0", "float32", [-1, 4]]]
    assert len(plan) > 1000
    assert len(plan) == len(build(onnx_request(), [model("Sub", pair)])[1])


@needs_tensorrt
def test_a_parsed_model_can_be_evaluated() -> None:
    pair = [("in0", 1, ["k0", 4]), ("in1", 1, ["k0", 4])]
    parsed = parse_onnx.parse(trt, model("Sub", pair), trt.Builder(flavours.logger(trt)))
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(evaluate(trt, parsed, [a, b])[0], a - b)


@needs_tensorrt
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parsed_half_precision_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    """As in assembled networks; what the model gives, and in which order, stays."""
    onnx = pytest.importorskip("onnx")
    helper, code = onnx.helper, {torch.float16: 10, torch.bfloat16: 16}[dtype]
    nodes = [
        helper.make_node("MatMul", ["in0", "in1"], ["out0"]),
        helper.make_node("Softmax", ["out0"], ["middle"], axis=-1),
        helper.make_node("Add", ["middle", "out0"], ["out1"]),
        helper.make_node("Softmax", ["out1"], ["out2"], axis=-1),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{way}{index}", code, [64, 64]) for index in range(count)]
        for way, count in (("in", 2), ("out", 3))
    )
    whole = helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs), ir_version=10)
    data = whole.SerializeToString()
    header, plan = build(onnx_request(ranges={}), [data])
    name = str(dtype).removeprefix("torch.")
    assert header["outputs"] == [[f"output{index}", name, [64, 64]] for index in range(3)]
    assert b"accumulation_type=2" in plan
    assert b"accumulation_type=0" not in plan
    a, b = (torch.randn(64, 64).to(dtype) for _ in range(2))
    got = evaluate(trt, parse_onnx.parse(trt, data, trt.Builder(flavours.logger(trt))), [a, b])
    product = (a.float() @ b.float()).to(dtype)
    total = torch.softmax(product.float(), 1).to(dtype) + product
    for one, wanted in zip(got, (product, total, torch.softmax(total.float(), 1).to(dtype)), strict=True):
        torch.testing.assert_close(one, wanted)


@needs_tensorrt
@pytest.mark.parametrize(
    ("op", "dtype", "words"),
    [
        ("Relu", 11, "DOUBLE"),  # the parser would compute in float32
        ("Add", 3, "INT8"),  # ... in quantized values
        ("RandomNormalLike", 1, "random"),
        ("NoSuchOp", 1, "NoSuchOp"),
    ],
)
def test_what_the_parser_keeps_quiet_about_is_refused(op: str, dtype: int, words: str) -> None:
    count = 2 if op == "Add" else 1
    inputs = [(f"in{index}", dtype, [4]) for index in range(count)]
    error = refusal(onnx_request(), model(op, inputs, dtype))
    assert error.stage == "parse"
    assert words in error.detail


@needs_tensorrt
def test_models_that_are_none() -> None:
    pytest.importorskip("onnx")
    whole = model("Relu", [("in0", 1, [4])])
    for blob in (b"", b"xx", whole[:-5], bytes(1000)):
        assert refusal(onnx_request(), blob).stage == "parse"
    assert refusal(onnx_request()).stage == "parse"
    assert refusal(onnx_request(ranges={}), model("Relu", [("in0", 1, ["k0"])])).stage == "parse"
    assert refusal(onnx_request(ranges={"k0": [3, 2, 1]}), model("Relu", [("in0", 1, ["k0"])])).stage == "parse"


@needs_tensorrt
@pytest.mark.parametrize("op", ["Gather", "Attention", "Where"])
def test_nodes_without_their_inputs_are_refused(op: str) -> None:
    """The parser crashes on some of these."""
    assert refusal(onnx_request(), model(op, [("in0", 1, [4, 4])])).stage == "parse"


@needs_tensorrt
@pytest.mark.parametrize("byte", [0, 128, 255])
def test_text_that_is_no_text_is_refused(byte: int) -> None:
    whole = bytearray(model("Relu", [("in0", 1, [4])]))
    whole[whole.index(b"Relu")] = byte
    assert refusal(onnx_request(), bytes(whole)).stage == "parse"


@needs_tensorrt
def test_the_parsers_error_names_the_node() -> None:
    pair = [("in0", 1, [4]), ("in1", 1, [5])]
    error = refusal(onnx_request(), model("Add", pair))
    assert (error.stage, error.node) == ("parse", "node_7")


def test_a_library_that_moved_is_told_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(*_: Any, **__: Any) -> Any:
        raise AttributeError("INetworkDefinition has no add_elementwise")

    monkeypatch.setattr("djinn_fx.engines.tensorrt.assemble.assemble", moved)
    trial.problem.cache_clear()
    try:
        capability = flavours.Flavour(FLAVOUR).capability()
        assert not capability.can_build
        for part in (capability.version, "add_elementwise", trial.TRIED[FLAVOUR]):
            assert part in capability.why_not
        assert flavours.Flavour(FLAVOUR).why_not_target("sm89") == capability.why_not
    finally:
        trial.problem.cache_clear()
