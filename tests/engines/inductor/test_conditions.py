"""What Inductor needs of a region's values: conditions in the graph, and what happens where they do not hold."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from djinn_fx.engines.base import Declined, RegionGraph
from djinn_fx.engines.inductor import apart as inductor_apart
from djinn_fx.engines.inductor import conditions as inductor_conditions
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.engines.inductor.safe import Needs, SafeCall, from_graph
from djinn_fx.errors import EngineError
from djinn_fx.reasons import ReasonKind
from tests.exam.values import difference
from tests.guard.faulty import region_of

T = torch.tensor
LEAST = torch.iinfo(torch.int64).min


def whole(x: torch.Tensor) -> torch.Tensor:
    """Whole numbers of which nothing is known before they are computed."""
    return x.to(torch.float64).to(torch.int64)


def safe(region: RegionGraph) -> tuple[Needs, SafeCall]:
    """The changed graph, run by torch's own ops in the place of Inductor's."""
    gm = inductor_conditions.copied(region.gm)
    needs = inductor_conditions.made_safe(region, gm)
    return needs, SafeCall(from_graph(gm)(), needs, None)


TABLE = torch.arange(20.0).view(10, 2)
#: By name: what is computed of a table and whole numbers, numbers that are taken, and some that are not.
INDICES: dict[str, tuple[Callable[[Any, Any], Any], Sequence[int], Sequence[Sequence[int]]]] = {
    "embedding": (lambda w, i: F.embedding(i, w), [0, 9], [[0, 10], [-1, 0]]),
    "index_select": (lambda w, i: w.index_select(0, i), [0, 9], [[0, 10], [-1, 0]]),
    "gather": (lambda w, i: w.gather(0, i[:, None]), [0, 9], [[10, 0], [-1, 0]]),
    "scatter": (lambda w, i: w.scatter(0, i[:, None], 5.0), [0, 9], [[10, 0], [-1, 0]]),
    "index_add": (lambda w, i: w.index_add(0, i, w[:2]), [0, 9], [[10, 0], [-1, 0]]),
    "index": (lambda w, i: w[i], [-10, 9], [[10, 0], [-11, 0]]),
    "second dimension": (lambda w, i: w[:, i], [-2, 1], [[2, 0], [-3, 0]]),
    "index_put": (lambda w, i: w.index_put((i,), w[:2]), [-10, 9], [[10, 0], [-11, 0]]),
    "index_fill": (lambda w, i: w.index_fill(0, i, 1.0), [-10, 9], [[10, 0], [-11, 0]]),
    "take": (lambda w, i: w.take(i), [-20, 19], [[20, 0], [-21, 0]]),
    "max_unpool2d": (
        lambda w, i: torch.ops.aten.max_unpool2d(w[:2, 0].view(1, 2, 1), i.view(1, 2, 1), [5, 2]),
        [0, 9],
        [[10, 0], [-1, 0]],
    ),
    "nll_loss": (lambda w, i: F.nll_loss(w[:2], i, reduction="none"), [0, -100], [[2, 0], [-1, 0]]),
    "trunc": (lambda w, i: torch.div(i + 7, i, rounding_mode="trunc"), [1, -3], [[0, 1]]),
    "floor_divide": (lambda w, i: 7 // i, [1, -3], [[0, 1]]),
    "remainder": (lambda w, i: i % (i - 1), [2, 3], [[1, 2]]),
    "fmod": (lambda w, i: torch.fmod(i, i - 1), [2, 3], [[1, 2]]),
}


@pytest.mark.parametrize("name", INDICES)
def test_a_condition_on_computed_numbers(name: str) -> None:
    function, good, bads = INDICES[name]
    region = region_of(lambda w, x: function(w, whole(x)), TABLE, torch.ones(2))
    needs, run = safe(region)
    assert (bool(needs.program.checks), needs.results) == (False, 1)
    x = T(good).double().float()
    assert torch.equal(run([TABLE, x])[0], function(TABLE, whole(x)))
    for bad in bads:
        args = [TABLE, T(bad).float()]
        with pytest.raises(Declined):
            run(args)
        assert run.reason is not None
        assert run.reason.kind is ReasonKind.DECLINED
        assert len(args) == 2
        with pytest.raises((IndexError, RuntimeError)):
            function(TABLE, whole(args[1]))


@pytest.mark.parametrize("name", INDICES)
def test_arguments_are_checked_before_the_call(name: str) -> None:
    function, good, bads = INDICES[name]
    region = region_of(function, TABLE, torch.ones(2, dtype=torch.int64))
    needs, run = safe(region)
    args = [TABLE, T(good)]
    assert torch.equal(run(args)[0], function(*[TABLE, T(good)]))
    for bad in bads:
        with pytest.raises(Declined):
            run([TABLE, T(bad)])
    assert needs.results == (0 if needs.program.checks else 1)


def test_what_is_proved_costs_nothing() -> None:
    def proved(w: torch.Tensor, x: torch.Tensor) -> Any:
        most = x.argmax(-1)
        return w[torch.arange(10)], w.index_select(0, most.clamp(0, 9)), whole(x) // 3, whole(x) % 5

    region = region_of(proved, TABLE, torch.randn(4, 10))
    gm = inductor_conditions.copied(region.gm)
    ops = len(gm.graph.nodes)
    assert not inductor_conditions.made_safe(region, gm)
    assert len(gm.graph.nodes) == ops
    assert not inductor_apart.left_to_torch(gm)


def test_the_least_number_is_not_divided_by_minus_one() -> None:
    region = region_of(lambda a, b: a // b, T([4, 6]), T([2, 3]))
    _, run = safe(region)
    assert run([T([LEAST, 6]), T([2, -1])])[0].tolist() == [LEAST // 2, -6]
    with pytest.raises(Declined):
        run([T([6, LEAST]), T([2, -1])])


def test_a_divisor_that_is_zero_is_not_compiled() -> None:
    region = region_of(lambda a: a // 1, T([4, 6]))
    (node,) = (node for node in region.gm.graph.nodes if node.op == "call_function")
    node.args = (node.args[0], 0)
    with pytest.raises(EngineError):
        safe(region)
    refused = InductorEngine().supports(region)
    assert refused is not None
    assert refused.kind is ReasonKind.ENGINE_REFUSED
    assert InductorEngine().supports(region_of(lambda a: a // 1, T([4, 6]))) is None


def test_sizes_that_differ_from_call_to_call() -> None:
    region = region_of(lambda w, x: w[whole(x)], torch.randn(7, 2), torch.ones(5), symbolic=True)
    needs, run = safe(region)
    assert needs.results == 1
    symbols = [value for value in region.example_inputs if isinstance(value, torch.SymInt)]
    sizes = {7: 4, 5: 3}
    table, x = torch.randn(4, 2), T([0.0, 3.0, -4.0])
    given = [sizes[int(one.node.hint)] for one in symbols]
    assert torch.equal(run([*given, table, x])[0], table[whole(x)])
    with pytest.raises(Declined):
        run([*given, table, T([0.0, 4.0, 0.0])])


def _write(cache: torch.Tensor, row: torch.Tensor, where: torch.Tensor) -> Any:
    new = cache.index_put((whole(where),), row)
    drawn = torch.rand(3) + new.sum()
    cache.copy_(new)
    return drawn, F.embedding(whole(where).abs(), new)


def test_nothing_is_written_and_nothing_drawn_before_the_flag_is_read() -> None:
    """A decode loop that trips a condition in its middle."""
    region = region_of(_write, torch.zeros(4, 2), torch.ones(1, 2), torch.zeros(1))
    made = InductorEngine().compile(region)
    assert made.header["needs"]["results"] == 2
    loaded = InductorEngine().load(replace(made, ready=None))
    assert made.ready is not None
    for run in (made.ready, loaded):
        mine, other = torch.zeros(4, 2), torch.zeros(4, 2)
        torch.manual_seed(3)
        for place in (0.0, 1.0, 4.0, 2.0, -9.0, 3.0):
            row, state = torch.randn(1, 2), torch.get_rng_state()
            try:
                expected: Any = _write(other, row, T([place]))
            except IndexError as error:
                expected = type(error)
            after = torch.get_rng_state()
            torch.set_rng_state(state)
            if isinstance(expected, type):
                with pytest.raises(expected):
                    run([mine, row, T([place])])
            else:
                for found, wanted in zip(run([mine, row, T([place])]), expected, strict=True):
                    torch.testing.assert_close(found, wanted)
            assert torch.equal(mine, other)
            assert torch.equal(torch.get_rng_state(), after)


NAN, INF = float("nan"), float("inf")
NUMBERS = T(
    [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, -3.0, 7.0, -7.0, NAN, INF, -INF, 3.4e38, 1e-8, -1e-8, 89.0, -88.0, 1e20]
)


def _told_apart(x: torch.Tensor, y: torch.Tensor) -> Any:
    ops = (torch.acosh, torch.atanh, torch.sinh, torch.cosh, torch.expm1, F.elu, F.selu, F.softshrink, F.gelu, F.relu6)
    pairs = (torch.remainder, torch.floor_divide, torch.fmax, torch.fmin)
    numbers = (x % 3, x // 3, x**-0.5, x.clamp(min=0.0), x * 0, torch.div(x, 0.7, rounding_mode="floor"))
    rounded = (x.half().float(), (x * 1.1).bfloat16().float() * 3, (x.half() * 2).half().float())
    sums = (x[:, None].sum(1), x[:, None].mean(1), F.avg_pool1d(x[None, :8], 2), x.reshape(-1, 8).var(1))
    whole_ones = (x.nan_to_num().clamp(-9, 9).long() // 0.7, x.half() // 0.7)
    casts = (*whole_ones, (x * 40).to(torch.int8), (y.nan_to_num() * 9).clamp(-128, 127).to(torch.int8))
    return *(op(x) for op in ops), *(op(x, y) for op in pairs), *numbers, *rounded, *sums, *casts


def test_numbers_that_tell_compilers_apart() -> None:
    """Values, places of NaN and infinities, and the signs of zeros."""
    x, y = (one.repeat(8).contiguous() for one in torch.cartesian_prod(NUMBERS, NUMBERS).t())
    region = region_of(_told_apart, torch.ones_like(x), torch.ones_like(y))
    made = InductorEngine().compile(region)
    assert made.ready is not None
    for place, (found, wanted) in enumerate(zip(made.ready([x, y]), _told_apart(x, y), strict=True)):
        torch.testing.assert_close(found, wanted, equal_nan=True, msg=lambda text, place=place: f"{place}: {text}")
        assert torch.equal(found.signbit() & (found == 0), wanted.signbit() & (wanted == 0)), place


def _written_out(x: torch.Tensor, z: torch.Tensor, w: torch.Tensor) -> Any:
    """Forms of our own, where strides or a type decide what torch does, and what is chosen among equal numbers."""
    norms = [F.batch_norm(one, w.flip(0), w.abs(), w, -w) for one in (x, z)]
    gelus = [F.gelu(one) for one in (x, x.mT, x.bfloat16())]
    chosen = (z.amax(-1), z.amin(0), *z.min(1), z.prod(-1))
    pools = (*F.max_pool2d(x, 3, 2, 1, return_indices=True), *F.adaptive_max_pool2d(x, 3, return_indices=True))
    zeros = (
        F.max_pool2d(z, 2),
        F.layer_norm(z, (8,)),
        torch.maximum(z, z.flip(0)),
        torch.minimum(z[..., :3], -z[..., :3]),
    )
    halves = [((h + 1e8) - 1e8, 7.77 - h, h < 0.1) for h in (x.bfloat16(), z.half())]
    others = (F.group_norm(x, 2), torch.lerp(x, x.flip(0), 0.3))
    return *norms, *gelus, *chosen, *pools, *zeros, *(one for half in halves for one in half), *others


def test_forms_of_our_own() -> None:
    torch.manual_seed(0)
    x = NUMBERS[torch.randint(len(NUMBERS), (2, 4, 8, 8))]
    z, w = torch.where(torch.rand(x.shape) > 0.5, 0.0, -0.0), T([1.0, INF, -0.0, 3e38])
    region = region_of(_written_out, torch.ones_like(x), torch.ones_like(z), torch.ones_like(w))
    run = InductorEngine().compile(region).ready
    assert run is not None
    for place, (found, wanted) in enumerate(zip(run([x, z, w]), _written_out(x, z, w), strict=True)):
        assert (place, difference([found], [wanted])) == (place, None)


@pytest.mark.parametrize(("dtype", "power", "apart"), [
    (torch.float32, 2, False), (torch.float32, -0.5, True), (torch.float32, 1.3, False),
    (torch.bfloat16, 3, False), (torch.bfloat16, 2.0, False), (torch.bfloat16, 1.3, True), (torch.float16, 0.5, True),
])  # fmt: skip
def test_powers(dtype: torch.dtype, power: float, apart: bool) -> None:
    region = region_of(lambda x: x**power, torch.ones(3, dtype=dtype))
    assert inductor_apart.left_to_torch(inductor_conditions.copied(region.gm)) is apart


def _products(x: torch.Tensor) -> Any:
    """Products that Inductor writes out."""
    row, column = x[None, :4], x[:4, None]
    outer = (torch.bmm(column[None], row[None]), torch.mm(column, row), torch.addmm(x[:4], column, row))
    inner = (torch.bmm(row[None], column[None]), torch.mm(row, column), torch.addmm(x[:1], row, column), x[:4] @ x[4:8])
    vectors = (torch.mv(x[:8].view(2, 4), x[:4]), torch.addmv(x[:2], x[:8].view(2, 4), x[:4]), torch.dot(x[:1], x[1:2]))
    pools = (F.adaptive_avg_pool1d(x[None], 3), F.adaptive_avg_pool2d(x.view(1, 3, 4), 2))
    return *outer, *inner, *vectors, *pools


def test_small_products_and_pools_keep_the_sign_of_zero() -> None:
    wide = torch.tensor([0.0, -0.0, -0.0, 1.0, -1e-38, 1e-38, -0.0, 1e-39, -1.0, -0.0, -0.0, -0.0])
    for x in (wide, wide.flip(0), wide.bfloat16()):
        region = region_of(_products, torch.ones_like(x))
        run = InductorEngine().compile(region).ready
        assert run is not None
        for place, (found, wanted) in enumerate(zip(run([x]), _products(x), strict=True)):
            assert (place, difference([found], [wanted])) == (place, None)


def test_dropouts_gradient_of_whole_numbers() -> None:
    def backward(grad: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.native_dropout_backward(grad, mask, 2.0)

    given = [T([-3, 3, -1]), T([False, False, True])]
    run = InductorEngine().compile(region_of(backward, *given)).ready
    assert run is not None
    assert difference(list(run(list(given))), [backward(*given)]) is None


def test_erf_of_small_numbers() -> None:
    x = T([1e-8, -1e-8, 1e-30, 0.0, -0.0, 2.0])
    region = region_of(torch.erf, torch.ones_like(x))
    run = InductorEngine().compile(region).ready
    assert run is not None
    torch.testing.assert_close(run([x])[0], torch.erf(x), atol=0.0, rtol=1e-6)
    gelu = region_of(lambda x: x * (torch.erf(x / 1.4142135) + 1.0), x)
    assert not inductor_apart.left_to_torch(inductor_conditions.copied(gelu.gm))


def test_a_cast_of_what_is_clamped_is_left_to_inductor() -> None:
    region = region_of(lambda x: (x.round().clamp(-128, 127).to(torch.int8), x.to(torch.int32)), torch.ones(3))
    assert not inductor_apart.left_to_torch(inductor_conditions.copied(region.gm))


def _crash(done: Any) -> None:
    torch.set_num_threads(2)
    index = torch.arange(40_000) % 3
    region = region_of(lambda w, i, d: (F.embedding(i, w) * 2, i // d), TABLE, index, index + 1)
    run = InductorEngine().compile(region).ready
    assert run is not None
    kinds = []
    for args in ([TABLE, index + 9, index + 1], [TABLE, index, index]):
        try:
            run(list(args))
        except (IndexError, RuntimeError) as error:
            kinds.append(type(error).__name__)
    done.put(kinds)


@pytest.mark.slow
def test_two_threads_and_a_bad_index_do_not_end_the_process() -> None:
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    process = context.Process(target=_crash, args=(done,))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert done.get(timeout=60) == ["IndexError", "RuntimeError"]


def test_a_grid_that_leads_far_away_or_nowhere() -> None:
    def function(image: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pads = ("zeros", "border", "reflection")
        return tuple(F.grid_sample(image, grid, padding_mode=pad, align_corners=True) for pad in pads)

    image = torch.arange(16.0).view(1, 1, 4, 4)
    run = InductorEngine().compile(region_of(function, image, torch.zeros(1, 1, 4, 2))).ready
    assert run is not None
    grid = T([math.nan, 0.5, INF, -INF, 1e19, -1e30, 0.25, 3e38]).view(1, 1, 4, 2)
    assert difference(run([image, grid]), function(image, grid)) is None
