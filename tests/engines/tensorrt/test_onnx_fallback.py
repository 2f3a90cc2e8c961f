"""The ONNX road: what is exported is what eager does, TensorRT builds it, and what cannot be said is refused."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.tensorrt import onnx_fallback
from djinn_fx.engines.tensorrt.conversion import Copy, FromInput, FromNetwork, FromSizes, Options, ViewOfInput
from djinn_fx.engines.tensorrt.onnx_check import check_with_onnxruntime, run
from djinn_fx.engines.tensorrt.onnx_fallback import OnnxConversion, form_of, missing_packages, onnx_request, versions
from djinn_fx.pool.jobs import BuildError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg import SRG
from tests import graphs
from tests.capture import capture
from tests.running import cut_by_labels

onnx = pytest.importorskip("onnx", reason="needs the package onnx")
pytest.importorskip("onnxscript", reason="needs the package onnxscript")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

TOKENS, WIDTH, HEADS, INNER = 6, 16, 2, 24


@pytest.fixture(autouse=True, scope="module")
def _one_table_of_ops() -> Iterator[None]:
    """The exporter makes its table of ops anew each time, for half a second; here it may keep it."""
    from torch.onnx._internal.exporter import _registration

    made = _registration.ONNXRegistry.from_torchlib
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(functools.cache(made)))
        yield


def whole(srg: SRG) -> RegionGraph:
    cut_by_labels(srg, [0 for _ in srg.ops])
    return region_graph(srg, srg.regions[0])


def region_of(function: Callable[..., Any], *arguments: Any) -> RegionGraph:
    """What the backend sees of a call, as one region."""
    (srg,) = capture(function, arguments)
    return whole(srg)


def traced(function: Callable[..., Any], *arguments: Any) -> RegionGraph:
    return whole(graphs.lowered(graphs.trace(function, *arguments)))


def converted(region: RegionGraph) -> OnnxConversion:
    made = onnx_request(region)
    assert isinstance(made, OnnxConversion), made
    return made


def refused(region: RegionGraph) -> Reason:
    made = onnx_request(region)
    assert isinstance(made, Reason)
    assert made.kind is ReasonKind.ENGINE_REFUSED
    return made


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def arguments_of(region: RegionGraph, sizes: dict[str, int] | None = None) -> list[Any]:
    """Random arguments with the region's own strides; symbolic sizes by their names, else as in the example."""

    def size(value: Any) -> int:
        if not isinstance(value, torch.SymInt):
            return int(value)
        expression = value.node.expr
        known = {symbol: (sizes or {}).get(str(symbol)) for symbol in expression.free_symbols}
        if None in known.values():
            return int(value.node.hint)
        return int(expression.xreplace(known))

    made: list[Any] = []
    for example in region.example_inputs:
        if not isinstance(example, Tensor):
            made.append(size(example) if isinstance(example, torch.SymInt) else example)
            continue
        value = torch.empty_strided(
            [size(one) for one in example.shape], [size(one) for one in example.stride()], dtype=example.dtype
        )
        shape = tuple(value.shape)
        generator = torch.Generator().manual_seed(len(made))
        if value.dtype.is_floating_point:
            value.copy_(torch.randn(shape, generator=generator) / 2)
        elif value.dtype is torch.bool:
            value.copy_(torch.rand(shape, generator=generator) > 0.4)
        else:
            value.copy_(torch.randint(0, 2, shape, generator=generator))
        made.append(value)
    return made


def ops(conversion: OnnxConversion) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(conversion.model).graph.node)


def plan(conversion: OnnxConversion, **changes: Any) -> bytes:
    """What the child would build of it, for a machine that is not this one."""
    pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt_rtx")
    from djinn_fx.engines.tensorrt import worker

    request = {**conversion.request(), "flavour": "tensorrt_rtx", "target": "sm89", **changes}
    _, data = worker.build(request, [conversion.model])
    return data


# -- a decoder's layer --------------------------------------------------------------------------------------------


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def layer(x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, *weights: Tensor) -> Tensor:
    """A Llama layer: RMS norm, rotated attention under a mask, gated MLP."""
    n0, q, k, v, o, n1, gate, up, down = weights

    def norm(y: Tensor, w: Tensor) -> Tensor:
        z = y.float()
        return w * (z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)).to(y.dtype)

    def heads(y: Tensor) -> Tensor:
        return y.view(*x.shape[:2], HEADS, -1).transpose(1, 2)

    y = norm(x, n0)
    query, key = rotated(heads(y @ q), cos, sin), rotated(heads(y @ k), cos, sin)
    seen = F.scaled_dot_product_attention(query, key, heads(y @ v), mask)
    x = x + seen.transpose(1, 2).reshape(*x.shape[:2], -1) @ o
    y = norm(x, n1)
    return x + (F.silu(y @ gate) * (y @ up)) @ down


def layer_arguments(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    head = WIDTH // HEADS
    shapes = [(WIDTH,), *[(WIDTH, WIDTH)] * 4, (WIDTH,), (WIDTH, INNER), (WIDTH, INNER), (INNER, WIDTH)]
    weights = [noise(*shape) / 4 for shape in shapes]
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[None, None]
    inputs = [noise(3, TOKENS, WIDTH), noise(1, 1, TOKENS, head), noise(1, 1, TOKENS, head)]
    return [*(one.to(dtype) for one in inputs), mask, *(one.to(dtype) for one in weights)]


@functools.cache
def llama(dtype: torch.dtype = torch.float32) -> tuple[RegionGraph, OnnxConversion]:
    region = region_of(layer, *layer_arguments(dtype))
    return region, converted(region)


def test_a_layer_is_exported_with_one_attention_and_without_weights() -> None:
    region, made = llama()
    found = ops(made)
    assert found["Attention"] == 1
    assert found["MatMul"] == 7
    assert sum(found.values()) == GOLDEN_NODES, dict(found)
    model = onnx.load_from_string(made.model)
    assert len(model.graph.input) == len(made.inputs) == len(region.example_inputs)
    assert sum(len(one.raw_data) for one in model.graph.initializer) < 2000, "weights are inputs"
    check_with_onnxruntime(made, region, arguments_of(region))


#: Nodes of the layer above. A change is no error, but somebody should have looked at it.
GOLDEN_NODES = 56


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_as_near_to_the_truth_as_eager(dtype: torch.dtype, tolerance: float) -> None:
    region, made = llama(dtype)
    assert ops(made)["Attention"] == 1
    arguments = arguments_of(region)
    (found,), _ = run(made, arguments)
    doubled = [one.double() if one.is_floating_point() else one for one in arguments]
    (true,) = region_of(layer, *(one.double() if one.is_floating_point() else one for one in layer_arguments())).gm(
        *doubled
    )
    assert found.dtype is dtype
    assert (found.double() - true).abs().max() <= tolerance * true.abs().max()


def test_half_precision_is_computed_in_float32_unless_that_is_switched_off() -> None:
    region, made = llama(torch.float16)
    narrow = onnx_request(region, Options(wide_accumulation=False))
    assert isinstance(narrow, OnnxConversion)
    assert ops(narrow)["Cast"] < ops(made)["Cast"]
    assert ops(narrow)["MatMul"] == ops(made)["MatMul"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensorrt_builds_a_layer(dtype: torch.dtype) -> None:
    _, made = llama(dtype)
    assert len(plan(made)) > 10_000


def test_alike_layers_are_the_same_bytes_and_others_are_not() -> None:
    _, first = llama()
    again = converted(region_of(lambda *given: layer(*given), *layer_arguments()))
    assert again.model == first.model
    assert again.digest() == first.digest()
    assert llama(torch.float16)[1].digest() != first.digest()


def test_nothing_is_told_of_where_a_model_was_made() -> None:
    _, made = llama()
    for secret in (b"torch", b"/", b"pkg.", b"layer", str(Path.cwd()).encode()):
        assert secret not in made.model.replace(b"TRT_decomposable", b"")


def test_another_process_makes_the_same_bytes(tmp_path: Path, repo: Path) -> None:
    """From the region's form alone, as plain data; with other hashes of strings."""
    region, made = llama()
    (tmp_path / "form.json").write_text(json.dumps(form_of(region)))
    program = (
        "import json, sys\n"
        "from djinn_fx.engines.tensorrt.onnx_fallback import convert_form\n"
        "print(convert_form(json.load(open(sys.argv[1]))).digest())\n"
    )
    world = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(repo)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "form.json")],
        env=world,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == made.digest()


# -- sizes --------------------------------------------------------------------------------------------------------


def test_sizes_may_differ_from_call_to_call() -> None:
    def block(x: Tensor, w: Tensor) -> tuple[Tensor, int]:
        y = F.softmax(x @ w, -1)
        return y.reshape(x.shape[0] * x.shape[1], -1), x.shape[1] * 2

    x = noise(3, 5, 8)
    torch._dynamo.mark_dynamic(x, 0)
    torch._dynamo.mark_dynamic(x, 1)
    region = region_of(block, x, noise(8, 10))
    made = converted(region)
    assert len(made.ranges) == 2
    assert set(made.symbols) == set(made.ranges)
    assert all(one.least <= one.usual <= one.most for one in made.ranges.values())
    tensor, *rest = made.outputs
    assert isinstance(tensor, FromNetwork)
    assert isinstance(tensor.shape[0], list), "a product of two sizes"
    assert all(isinstance(one, FromSizes) for one in rest)
    symbols = {str(size.node.expr) for size in region.example_inputs if isinstance(size, torch.SymInt)}
    assert len(symbols) == 2
    for number in (2, 4, 7):
        check_with_onnxruntime(made, region, arguments_of(region, dict.fromkeys(symbols, number)))
    assert plan(made)
    grown = onnx_request(region, Options(growth=2))
    assert isinstance(grown, OnnxConversion)
    assert grown.model == made.model
    assert grown.digest() != made.digest(), "another profile is another plan"


def test_an_export_that_holds_for_the_examples_sizes_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(3, 8)
    torch._dynamo.mark_dynamic(x, 0)
    region = region_of(lambda x: x * 2, x)
    export = onnx_fallback._exported

    def deciding(gm: Any) -> Any:
        size = next(iter(gm.graph.find_nodes(op="placeholder"))).meta["val"].shape[0]
        assert bool(size < 100)
        return export(gm)

    assert isinstance(onnx_request(region), OnnxConversion)
    monkeypatch.setattr(onnx_fallback, "_exported", deciding)
    assert "sizes of the example" in refused(region).detail


def test_a_size_that_no_tensor_tells_is_refused() -> None:
    def grow(x: Tensor, n: int) -> Tensor:
        return x.new_zeros(n) + x.sum()

    def call(x: Tensor, y: Tensor) -> Tensor:
        return grow(x, y.shape[0] * 2 + 1)

    y = noise(7)
    torch._dynamo.mark_dynamic(y, 0)
    assert "size" in refused(region_of(call, noise(3), y)).detail


# -- memory -------------------------------------------------------------------------------------------------------


def test_a_cache_that_is_written_is_an_output_to_be_copied_back() -> None:
    def step(cache: Tensor, new: Tensor, at: Tensor) -> Tensor:
        cache.index_copy_(1, at, new)
        return cache.sum(1)

    region = region_of(step, noise(2, 8, 4), noise(2, 1, 4), torch.tensor([3]))
    made = converted(region)
    (copy,) = made.copies
    arguments = arguments_of(region)
    assert tuple(arguments[copy.input].shape) == (2, 8, 4)
    check_with_onnxruntime(made, region, arguments)


def test_reads_after_a_write_see_what_was_written() -> None:
    def step(state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        before = state * 2
        state.add_(x)
        state.mul_(3)
        return before, state + 1

    region = region_of(step, noise(4), noise(4))
    made = converted(region)
    assert len(made.copies) == 1
    check_with_onnxruntime(made, region, arguments_of(region))


def test_a_write_of_another_type_is_copied_as_the_arguments_own() -> None:
    def step(count: Tensor, x: Tensor) -> Tensor:
        count.copy_(x > 0)
        return count + 1

    region = region_of(step, torch.zeros(3, 4), noise(3, 4))
    check_with_onnxruntime(converted(region), region, arguments_of(region))


def test_an_argument_that_shares_its_memory_is_not_written() -> None:
    def step(x: Tensor) -> Tensor:
        view = x.view(-1)
        y = torch.ops.aten.copy_.default(x, x * 2)
        return view + y.view(-1)

    with torch.no_grad():
        gm = graphs.trace(step, noise(2, 3))
    assert "after the argument is written" in refused(whole(graphs.lowered(gm))).detail


def test_outputs_that_are_views_of_arguments_are_left_to_the_caller() -> None:
    def step(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x + 1, w.t()[1:], x * 2

    made = converted(traced(step, noise(2, 3), noise(4, 5)))
    first, view, last = made.outputs
    assert isinstance(view, ViewOfInput)
    assert (view.shape, view.strides, view.offset) == ((4, 4), (1, 5), 1)
    assert isinstance(first, FromNetwork)
    assert isinstance(last, FromNetwork)
    assert {first.output, last.output} == {0, 1}
    assert not any(isinstance(one, FromInput) for one in made.outputs)


def test_strides_that_readers_expect_are_told() -> None:
    made = converted(traced(lambda x: (x * 2).transpose(0, 1), noise(2, 3)))
    (output,) = made.outputs
    assert isinstance(output, FromNetwork)
    assert (output.shape, output.strides) == ((3, 2), (1, 3))


def test_an_argument_copied_into_another() -> None:
    def step(state: Tensor, x: Tensor) -> Tensor:
        state.copy_(x)
        return x * 2

    region = region_of(step, noise(4), noise(4) + 1)
    made = converted(region)
    assert made.copies == (Copy(output=1, input=made.copies[0].input),)
    check_with_onnxruntime(made, region, arguments_of(region))


# -- attention ----------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **named: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask, **named)


def test_a_row_that_sees_nothing_gives_zeros() -> None:
    keys = noise(1, 2, 5, 8)
    seen = torch.tensor([[True] * 5, [False] * 5, [True, False, True, False, True]])
    hidden = torch.zeros(3, 5).masked_fill(~seen, float("-inf"))
    for mask in (seen, hidden):
        region = region_of(attend, noise(1, 2, 3, 8), keys, keys + 1, mask[None, None])
        made = converted(region)
        assert ops(made)["Attention"] == 1
        arguments = arguments_of(region)
        place = next(i for i, one in enumerate(arguments) if one.shape == (1, 1, 3, 5))
        arguments[place] = mask[None, None].clone()
        with torch.no_grad():
            assert (region.gm(*arguments)[0][0, :, 1] == 0).all(), "what torch does"
        check_with_onnxruntime(made, region, arguments)


def test_causal_attention_counts_from_the_upper_left() -> None:
    keys = noise(1, 2, 5, 8)
    region = region_of(functools.partial(attend, is_causal=True), noise(1, 2, 3, 8), keys, keys)
    check_with_onnxruntime(converted(region), region, arguments_of(region))


def test_heads_that_share_keys_stay_shared() -> None:
    keys = noise(1, 2, 5, 8)
    region = traced(
        lambda q, k: torch.ops.aten.scaled_dot_product_attention.default(q, k, k, enable_gqa=True),
        noise(1, 4, 5, 8),
        keys,
    )
    made = converted(region)
    assert ops(made)["Attention"] <= 1
    check_with_onnxruntime(made, region, arguments_of(region))


# -- what the direct converter is unlikely to have ------------------------------------------------------------------

X = noise(2, 3, 6, 8)

COVERAGE: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "einsum": (lambda a, b: torch.einsum("bhid,bhjd->bijh", a, b), (X, noise(2, 3, 5, 8))),
    "bilinear": (lambda a: F.interpolate(a, size=(9, 13), mode="bilinear"), (X,)),
    "grid_sample": (lambda a, b: F.grid_sample(a, b, align_corners=False), (X, noise(2, 4, 5, 2))),
    "unfold": (lambda a: F.unfold(a, 3, padding=1), (X,)),
    "roll": (lambda a: torch.roll(a, (1, -2), (2, 3)), (X,)),
    "sort": (lambda a: a.sort(-1), (X,)),
    "logcumsumexp": (lambda a: a.logcumsumexp(-1), (X,)),
}


@pytest.mark.parametrize("name", COVERAGE)
def test_rare_ops_are_what_eager_does_and_build(name: str) -> None:
    function, given = COVERAGE[name]
    region = region_of(function, *given)
    made = converted(region)
    check_with_onnxruntime(made, region, arguments_of(region))
    assert plan(made)


def test_what_only_the_parser_refuses_is_said_by_the_build() -> None:
    made = converted(region_of(lambda a: F.fold(a, (6, 8), 3, padding=1), noise(2, 27, 48)))
    with pytest.raises(BuildError) as caught:
        plan(made)
    assert caught.value.stage == "parse"


def test_a_constant_output_is_computed() -> None:
    region = region_of(lambda a: (torch.arange(5), a + 1), noise(5))
    made = converted(region)
    check_with_onnxruntime(made, region, arguments_of(region))
    assert plan(made)


# -- refusals -------------------------------------------------------------------------------------------------------


def index_of(x: Tensor) -> Tensor:
    return x.nonzero()


REFUSED: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], str]] = {
    "random": (lambda a: a + torch.rand(5), (noise(5),), "rand"),
    "dropout": (lambda a: F.dropout(a, 0.5, True), (noise(5),), "native_dropout"),
    "float64": (lambda a: (a.double() * 3).float(), (noise(5),), "_to_copy"),
    "int8": (lambda a: (a.to(torch.int8) + 1).float(), (noise(5),), "_to_copy"),
    "complex": (lambda a: torch.fft.rfft(a).abs(), (noise(8),), "_fft_r2c"),
    "mean": (
        lambda a, i, b: a.scatter_reduce(1, i, b, "mean"),
        (noise(3, 5), torch.zeros(3, 4, dtype=torch.int64), noise(3, 4)),
        "scatter_reduce",
    ),
    "training": (
        lambda a, m, v: torch.ops.aten.native_batch_norm.default(a, None, None, m, v, True, 0.1, 1e-5)[0],
        (X, torch.zeros(3), torch.ones(3)),
        "batch_norm",
    ),
    "divisor": (lambda a: F.avg_pool2d(a, 2, divisor_override=3), (X,), "avg_pool2d"),
    "negative padding": (lambda a: F.pad(a, (-1, 2, 0, 1), mode="replicate"), (X,), "0"),
    "antialias": (lambda a: F.interpolate(a, size=(4, 5), mode="bilinear", antialias=True), (X,), "upsample"),
    "no elements": (lambda a: a[:0].sum(0), (noise(3, 4),), "slice"),
    "no ONNX op": (lambda a: torch.searchsorted(a, a), (noise(5),), "searchsorted"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_by_name(name: str) -> None:
    function, given, node = REFUSED[name]
    reason = refused(region_of(function, *given))
    assert node in (reason.node or ""), reason


def test_what_the_exporter_gets_wrong_without_our_knowing_is_found_by_running_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function, given, _ = REFUSED["divisor"]
    region = region_of(function, *given)
    monkeypatch.setattr("djinn_fx.engines.tensorrt.onnx_rewrite._WRONG", {})
    assert isinstance(onnx_request(region), OnnxConversion)
    made = onnx_request(region, verify=True)
    assert isinstance(made, Reason)
    assert "other numbers" in made.detail
    for dtype in (torch.float32, torch.bfloat16):
        region, right = llama(dtype)
        checked = onnx_request(region, verify=True)
        assert isinstance(checked, OnnxConversion)
        assert checked.model == right.model


def test_sizes_that_depend_on_data_are_refused() -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        (srg,) = capture(index_of, (noise(4),))
    assert "run time" in refused(whole(srg)).detail


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    region = traced(lambda x: x + 1, noise(3))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert {"torch", "onnx", "onnxscript", "converter"} <= set(versions())
    assert "onnxscript" in str(missing_packages())
    assert "pip install onnx onnxscript" in refused(region).detail


def test_an_output_exported_as_something_else_is_refused() -> None:
    from djinn_fx.engines.tensorrt.onnx_model import NotTaken, finish

    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT16)
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy"]
    for wanted in (("float32", (2, 3)), ("float16", (3, 2))):
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]))
        with pytest.raises(NotTaken, match="was exported"):
            finish(model, [("float32", (2, 3))], [wanted])
