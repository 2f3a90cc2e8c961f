"""What a conversion says about a region as a whole: writes, views, sizes, ranges, dead nodes, refusals."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.nn.attention import SDPBackend, sdpa_kernel

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.bound.signature import Argument, Given, View
from djinn_fx.engines.lowering.formulas import evaluate
from djinn_fx.engines.onnx import registry
from djinn_fx.engines.tensorrt.mapping import Conversion, convert
from djinn_fx.reasons import Reason, ReasonKind
from tests.engines.tensorrt.converting import check, needs_tensorrt, noise, ops, run, same, session_of

pytestmark = needs_tensorrt


def one(function: Any, *args: Any, **kwargs: Any) -> Conversion:
    """The conversion of a function of one graph, which gives what eager gives."""
    session, actual, expected = run(function, args, **kwargs)
    assert not session.refusals, session.refusals
    same(actual, expected)
    (conversion,) = session.conversions
    return conversion


def refused(function: Any, *args: Any, **kwargs: Any) -> Reason:
    """Why a function of one graph is not converted."""
    session, _, _ = run(function, args, **kwargs)
    (reason,) = session.refusals
    assert reason.kind is ReasonKind.ENGINE_REFUSED
    return reason


# Writes


def test_written_inputs_are_outputs_to_be_copied_back() -> None:
    def step(cache: Tensor, other: Tensor, new: Tensor, place: Tensor) -> Tensor:
        cache.index_copy_(1, place, new)
        other.add_(1)
        other.mul_(2)
        return (cache * 2).sum() + other.sum()

    found = one(step, noise(2, 8, 4), noise(3), noise(2, 1, 4), torch.tensor([5]))
    assert len(found.calling.copies) == 2
    assert len({copy.input for copy in found.calling.copies}) == 2
    assert len([one for one in found.calling.results if isinstance(one, Given)]) == 1


def test_a_written_input_that_is_returned_is_the_input_itself() -> None:
    def step(cache: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        cache.copy_(new + 1)
        return cache, cache[0]

    session, actual, expected = run(step, (noise(2, 3), noise(2, 3)))
    same(actual, expected)
    (results, arguments) = actual[0]
    assert results[0] is arguments[0]
    assert results[1].untyped_storage().data_ptr() == arguments[0].untyped_storage().data_ptr()
    assert len(session.conversions[0].calling.copies) == 1


def test_a_region_that_only_writes() -> None:
    def step(cache: Tensor, new: Tensor) -> None:
        cache.copy_(new * 2)

    found = one(step, noise(2, 3), noise(2, 3))
    assert found.calling.results == ()
    assert len(found.calling.copies) == 1


def region_of(graph: torch.fx.Graph, *examples: Tensor, device: str = "cpu") -> RegionGraph:
    """A region of a graph made by hand; values are traced, for a device that need not be here."""
    gm = torch.fx.GraphModule({}, graph)
    mode = FakeTensorMode()
    with mode:
        fakes = [torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=device) for one in examples]
    FakeTensorProp(gm, mode).propagate_dont_convert_inputs(*fakes)
    return RegionGraph(
        gm=gm, structural_hash="", canonical=None, example_inputs=tuple(fakes), label="by hand", kind="inference"
    )


def test_a_view_that_is_read_after_its_input_was_written_is_refused() -> None:
    graph = torch.fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    view = graph.call_function(torch.ops.aten.view.default, (x, [6]))
    graph.call_function(torch.ops.aten.copy_.default, (x, y))
    late = graph.call_function(torch.ops.aten.add.Tensor, (view, 1))
    graph.output((late,))
    found = convert(region_of(graph, noise(2, 3), noise(2, 3)))
    assert isinstance(found, Reason)
    assert found.node == late.name


def test_a_write_into_a_part_of_an_input_is_refused() -> None:
    graph = torch.fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    row = graph.call_function(torch.ops.aten.select.int, (x, 0, 1))
    written = graph.call_function(torch.ops.aten.copy_.default, (row, y))
    graph.output((written,))
    found = convert(region_of(graph, noise(2, 3), noise(3)))
    assert isinstance(found, Reason)
    assert found.node == written.name


# Outputs


def test_an_output_that_shows_an_input_is_a_view_of_it() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    row = graph.call_function(torch.ops.aten.select.int, (x, 0, 1))
    more = graph.call_function(torch.ops.aten.add.Tensor, (x, 1))
    graph.output((row, x, more, None, more))
    found = convert(region_of(graph, noise(2, 3)))
    assert isinstance(found, Conversion)
    results = found.calling.results
    assert results[0] == View(place=0, result=None, sizes=(3,), strides=(1,), offset=3)
    assert results[1] == Argument(place=0)
    assert isinstance(results[2], Given)


def test_outputs_keep_the_strides_their_readers_were_compiled_for() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + 1).transpose(0, 1), (x + 2).unsqueeze(0).expand(3, 2, 5)

    check(model, (noise(2, 5),))


def test_two_equal_outputs_have_memory_of_their_own() -> None:
    session, actual, _ = run(lambda x: (x.clone(), x.clone(), x + 0), (noise(3),))
    assert not session.refusals
    pointers = {one.data_ptr() for one in actual[0][0]}
    assert len(pointers) == 3


def test_nodes_that_nothing_needs_are_not_converted() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.ops.aten.erfinv.default, (x,))
    graph.output((graph.call_function(torch.ops.aten.exp.default, (x,)),))
    found = convert(region_of(graph, noise(2, 3)))
    assert isinstance(found, Conversion)
    assert ops(found) == ["Exp"]


# Sizes


def test_symbols_have_the_ranges_torch_knows_and_open_ends_are_closed() -> None:
    def model(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 0) * x.shape[0]

    x, y = noise(5, 4), noise(9, 4)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=40)
    torch._dynamo.mark_dynamic(y, 0)
    session, _, _ = run(model, (x, y), dynamic=None, copies=False)
    (found,) = session.conversions
    first, second = (found.ranges[str(one.shape[0])] for one in found.calling.inputs)
    assert (first.least, first.usual, first.most) == (2, 8, 40), "the example's 5 up to a power of two"
    assert (second.usual, second.most) == (16, 128), "eight times as much, as the options say"
    wider, _, _ = run(model, (x, y), dynamic=None, copies=False, growth=2)
    assert max(known.most for known in wider.conversions[0].ranges.values()) == 32
    assert wider.conversions[0].digest() != found.digest(), "another profile is another plan"


def test_a_region_of_another_example_of_about_the_size_is_the_same_network() -> None:
    def digest(size: int) -> str:
        session, _, _ = run(lambda x: x.view(-1) * x.shape[0], (noise(size, 3),), dynamic=True)
        return session.conversions[0].digest()

    assert digest(5) == digest(7)
    assert digest(7) != digest(9)


def test_formulas() -> None:
    assert evaluate(["+", 1, ["*", 2, "k0"], ["//", "k1", 3]], {"k0": 5, "k1": 8}) == 13
    assert evaluate(["max", ["-", "k0", 4], ["%", 7, 4]], {"k0": 5}) == 3
    with pytest.raises(ValueError):
        evaluate(["^", 1, 2], {})


# Devices

FORMS: dict[str, Any] = {
    "_scaled_dot_product_flash_attention_for_cpu": {},
    "_scaled_dot_product_flash_attention": {},
    "_scaled_dot_product_efficient_attention": {"attn_bias": None, "compute_log_sumexp": False},
    "_scaled_dot_product_cudnn_attention": {"attn_bias": None, "compute_log_sumexp": False},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_traced_for_any_device_is_one_layer(form: str, causal: bool) -> None:
    graph = torch.fx.Graph()
    names = [graph.placeholder(name) for name in "qkv"]
    keywords = {**FORMS[form], "is_causal": causal, "scale": 0.3}
    made = graph.call_function(getattr(torch.ops.aten, form).default, tuple(names), keywords)
    graph.output((graph.call_function(operator.getitem, (made, 0)),))
    q, k, v = (noise(2, 4, 6, 16, dtype=torch.float16, seed=seed) for seed in range(3))
    region = region_of(graph, q, k, v, device="cpu" if "cpu" in form else "cuda")
    found = convert(region)
    assert isinstance(found, Conversion), found
    assert ops(found).count("Attention") == 1
    (result,) = session_of(found)([q, k, v])
    with sdpa_kernel(SDPBackend.MATH):
        wanted = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=causal, scale=0.3)
    same(result, wanted.half())


def test_a_region_on_two_devices_is_refused() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(torch.ops.aten._to_copy.default, (x,), {"device": torch.device("cuda")}),))
    assert isinstance(convert(region_of(graph, noise(3))), Reason)


# Refusals


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda x: x.double() + 1, (noise(3),)),
        (lambda x: x + 1, (noise(3).double(),)),
        (lambda x: torch.bernoulli(x), (noise(3).sigmoid(),)),
        (lambda x: x // 0.3, (noise(3),)),
        (lambda x: x % 0.3, (noise(3),)),
        (lambda x: x & 3, (torch.arange(4),)),
        (lambda x: x + 1, (torch.arange(4, dtype=torch.uint8),)),
        (lambda x: x.erfinv(), (noise(3),)),
        (lambda x: x.topk(3900)[0], (noise(4000),)),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1] + 1, (noise(1, 1, 4, 4),)),
        (lambda x: F.max_pool2d(x, 2, dilation=2), (noise(1, 1, 5, 5),)),
        (lambda x: torch.fft.fft(x).real + 0, (noise(4),)),
        (lambda x: x.index_put((torch.tensor([0, 0]),), x[:2], accumulate=True), (noise(3),)),
        (lambda x: x.view(1, 1, 1, 1, 1, 1, 1, 1, 3) + 1, (noise(3),)),
    ],
)
def test_what_tensorrt_has_no_equal_for_is_refused(function: Any, args: tuple[Any, ...]) -> None:
    reason = refused(function, *args)
    assert reason.node is not None


def test_a_refusal_names_the_op_and_the_users_line() -> None:
    def model(x: Tensor) -> Tensor:
        y = x + 1
        return torch.special.bessel_j0(y)

    reason = refused(model, noise(3))
    line = model.__code__.co_firstlineno + 2
    assert "aten.special_bessel_j0.default" in reason.detail
    assert f"{__file__}:{line}" in reason.detail


def test_a_converters_own_mistake_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(b: Any, node: Any, x: Any) -> Any:
        return b.cast(x, torch.float16)

    def broken(b: Any, node: Any, x: Any) -> Any:
        raise KeyError("what")

    for converter in (wrong, broken):
        monkeypatch.setitem(registry.TABLE, "aten.exp.default", converter)
        assert "exp" in refused(lambda x: x.exp(), noise(3)).detail or converter is broken


# Decomposition


def test_an_op_without_a_converter_is_taken_apart_as_torch_does() -> None:
    def model(x: Tensor) -> list[Tensor]:
        return [F.glu(x, 1), x.nan_to_num(), *torch.std_mean(x, 0), F.prelu(x, torch.tensor([0.2])), F.selu(x)]

    check(model, (noise(4, 8),), (noise(5, 10),), dynamic=True)


def test_what_remains_of_an_op_taken_apart_is_refused_at_the_users_line() -> None:
    reason = refused(lambda x: torch.baddbmm(x, x, x), torch.ones(2, 3, 3, dtype=torch.int64))
    assert "aten.bmm.default" in reason.detail
    assert f"{__file__}:" in reason.detail


# Memory


def test_a_view_of_a_result_shows_its_memory() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + 1
        return y, y[1]

    session, actual, expected = run(model, (noise(2, 3),))
    same(actual, expected)
    assert isinstance(session.conversions[0].calling.results[1], View)
    whole, part = actual[0][0]
    assert part.data_ptr() == whole[1].data_ptr()


def test_reads_after_a_write_see_what_was_written() -> None:
    def step(state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        before = state * 2
        state.add_(x)
        state.mul_(3)
        return before, state + 1

    one(step, noise(4), noise(4))


def test_a_write_of_another_type_is_copied_as_the_arguments_own() -> None:
    def step(count: Tensor, x: Tensor) -> Tensor:
        count.copy_(x > 0)
        return count + 1

    one(step, torch.zeros(3, 4), noise(3, 4))


def test_a_constant_output_is_computed() -> None:
    one(lambda a: (torch.arange(5), a + 1), noise(5))


def test_a_size_that_no_tensor_tells_is_refused() -> None:
    def grow(x: Tensor, n: int) -> Tensor:
        return x.new_zeros(n) + x.sum()

    session, _, _ = run(grow, (noise(3), 7), (noise(3), 9), dynamic=True)
    assert all(reason.kind is ReasonKind.ENGINE_REFUSED for reason in session.refusals)
    assert session.refusals
