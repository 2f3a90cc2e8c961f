"""order-ops: less in memory at once, the same results, and nothing moved for nothing."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from torch import Tensor

from djinn_fx.costmodels.memory.plan import memory_plan
from djinn_fx.costmodels.memory.sequence import ordering_problems
from djinn_fx.passes.base import PassContext, PassResult, run_passes
from djinn_fx.passes.memory.order_ops import OrderOps
from djinn_fx.reasons import ReasonKind
from djinn_fx.solvers.ordering.problem import profile_of
from djinn_fx.srg import SRG, GraphKind, Residency, lower
from tests import graphs, programs
from tests.capture import capture


def ordered(srg: SRG, **options: Any) -> PassResult:
    result = run_passes(srg, [OrderOps(**options)], PassContext(), check=True)
    return PassResult(modified=result.timings[0].modified, reasons=tuple(result.reasons))


def names(srg: SRG) -> list[str]:
    return [node.name for node in srg.ops]


def peak(srg: SRG, device: str = "cpu") -> int:
    return memory_plan(srg, threads=1).peak(device).nbytes


def test_a_weight_is_written_before_the_next_value_is_made() -> None:
    srg = graphs.lowered(graphs.late_writes())
    before = peak(srg)
    result = ordered(srg)
    weight = 4 * graphs.BATCH * graphs.WIDTH
    assert peak(srg) == before - weight
    assert [one.kind for one in result.reasons] == [ReasonKind.ORDERED]
    assert names(srg).index("copy_") < names(srg).index("sub_1")


def test_a_graph_without_ops_has_nothing_to_move() -> None:
    for empty in (0, 4):  # a value of no bytes, and one of some
        assert not ordered(graphs.lowered(graphs.trace(lambda x: x, torch.empty(empty)))).modified


def test_nothing_moves_where_little_is_gained() -> None:
    srg = graphs.lowered(graphs.late_writes())
    before = names(srg)
    assert ordered(srg, least_gain=0.5) == PassResult(modified=False)
    assert names(srg) == before


def test_nothing_moves_where_a_size_depends_on_data() -> None:
    def model(x: Tensor, w: Tensor) -> Tensor:
        first, second = w - 1, w - 2
        w.copy_(first)
        w.add_(second)
        return x.nonzero()

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        (srg,) = capture(model, (torch.ones(4), torch.ones(64)))
    assert not ordered(srg, least_gain=0.0).modified


def test_another_device_needs_no_more_than_before() -> None:
    # On the larger device each value is best used at once, on the other one all of the second kind first.
    def model(x: Tensor) -> Tensor:
        small, large = x[:4] + 1, x + 1
        return large.sum() + small.sum()

    srg = graphs.lowered(graphs.trace(model, torch.empty(400)))
    graphs.on_device(srg, "cuda:0", *(node.name for node in srg.ops if node.name == "add"))
    other = peak(srg, "cuda:0")
    ordered(srg, least_gain=0.0)
    assert peak(srg, "cuda:0") <= other


@programs.DETERMINISTIC
@given(programs.PROGRAMS)
def test_random_programs_behave_the_same(program: programs.Program) -> None:
    gm = programs.build(program)
    first = programs.behaviour(gm.forward, programs.arguments_of(program.transposed))
    srg = lower(gm)
    before = peak(srg)
    ordered(srg, least_gain=0.0, steps=1000)
    assert peak(srg) <= before
    gm.recompile()
    again = programs.behaviour(gm.forward, programs.arguments_of(program.transposed))
    assert again == first or "refused" in (first, again)


@programs.DETERMINISTIC
@given(programs.PROGRAMS)
def test_the_problem_has_the_profile_of_the_memory_plan(program: programs.Program) -> None:
    srg = lower(programs.build(program))
    problem = ordering_problems(srg, threads=1)["cpu"]
    assert profile_of(problem, range(problem.size)) == memory_plan(srg, threads=1).profile("cpu")


def test_what_was_saved_for_backward_goes_after_its_last_use_in_the_problem_too() -> None:
    gm = graphs.repeated_layers(1)
    residency = {"x_1": Residency.ACTIVATION, "w_1": Residency.PARAMETER, "w_2": Residency.INPUT}
    srg = lower(gm, GraphKind.BACKWARD, residency)
    problem = ordering_problems(srg, threads=1)["cpu"]
    assert any(one.given and not one.kept for one in problem.storages)
    assert profile_of(problem, range(problem.size)) == memory_plan(srg, threads=1).profile("cpu")


def test_a_whole_training_step_needs_less() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(6)))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    moments = {name: torch.zeros_like(value) for name, value in weights.items()}

    def step(x: Tensor) -> Tensor:
        def loss(given: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(model, given, (x,)).pow(2).mean()

        gradients, value = torch.func.grad_and_value(loss)(weights)
        for name, weight in weights.items():
            moments[name].mul_(0.9).add_(gradients[name])
            weight.sub_(moments[name], alpha=0.1)
        return value  # type: ignore[no-any-return]

    (srg,) = capture(step, (torch.randn(8, 64),))
    before = peak(srg)
    ordered(srg)
    assert peak(srg) < 0.75 * before
