"""One kind of training graphs of one model, in the order as traced and in ours. Runs in a child process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.cost.models import FAMILIES, called, make_model
from bench.harness.harness import time_calls
from bench.memory.graphs import Built, built
from bench.memory.measure import given_to
from djinn_fx.calibrate.live_memory import measured
from djinn_fx.costmodels.memory.sequence import ordering_problems
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.memory.order_ops import OrderOps
from djinn_fx.passes.pipeline import DEFAULT
from djinn_fx.solvers.ordering.anytime import best_order
from djinn_fx.srg.graph import tensors_of
from djinn_fx.srg.lower import lower

Found = dict[str, Any]
Step = tuple[Callable[..., Any], tuple[Any, ...], Callable[[Any], Tensor] | None]

#: Turns of either order in which calls are timed.
_TURNS = 5


def measure(family: str, kind: str) -> list[Found]:
    """The graphs of one kind, as :data:`KINDS` names them."""
    known, model = FAMILIES[family], make_model(family)
    place = next(at for at, one in enumerate(known.calls) if one.way != "decode")
    with torch.no_grad():
        module, inputs = called(model, known, known.calls[place])
    for one in module.modules():
        if isinstance(one, torch.nn.Dropout):
            one.p = 0.0  # not known to torch.func's transforms; the masks would be the same in both orders
    pairs = []
    for without in ((OrderOps.name,), ()):
        step, args, loss = KINDS[kind](module.train(), inputs)
        pairs.append(built(step, args, {}, "eager", loss_of=loss, without=without))
    return [_compared(f"{family}/{kind}", *pair) for pair in zip(*pairs, strict=True)]


def _compared(name: str, traced: Built, ours: Built) -> Found:
    srg = traced.captured.srg
    problem = ordering_problems(srg)["cpu"]
    told = best_order(problem)
    with torch.no_grad():
        before, after = (measured(one.run, one.args, one.given_away).peak for one in (traced, ours))
        equal = _equal(traced, ours)
        times = _times(traced, ours)
    moved = [one.name for one in srg.ops] != [one.name for one in ours.captured.srg.ops]
    start = time.perf_counter()  # without what a process loads once
    again = run_passes(lower(srg.gm, srg.kind), DEFAULT, PassContext()).timings
    planning_s = time.perf_counter() - start
    (pass_s,) = [one.seconds for one in again if one.name == OrderOps.name]
    return {
        "graph": f"{name} {srg.kind.value}",
        "ops": problem.size,
        "as_traced": before,
        "ours": after,
        "bound": told.bound,
        "moved": moved,
        "equal": equal,
        "times_s": times,
        "pass_s": pass_s,
        "planning_s": planning_s,
    }


def _equal(first: Built, second: Built) -> bool:
    """Whether both give the same results, and leave their arguments alike, to the last bit."""
    answers = []
    for one in (first, second):
        args = [value.clone() if isinstance(value, Tensor) else value for value in first.args]
        torch.manual_seed(0)
        result = one.run(list(args))
        answers.append(tensors_of([*result, *args]))
    return all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(*answers, strict=True))


def _times(first: Built, second: Built) -> list[list[float]]:
    """Seconds of calls of either in turn; the first turn warms up."""
    found: list[list[float]] = [[], []]
    for turn in range(_TURNS + 1):
        for place, one in enumerate((first, second)):
            given = given_to(one)
            (seconds,) = time_calls(lambda run=one.run, given=given: run(given), 1)
            if turn:
                found[place].append(seconds)
    return found


def median_ratio(times: list[list[float]]) -> float:
    """How long ours takes, in what the order as traced takes: the middle one of neighbours' ratios."""
    return statistics.median(ours / traced for traced, ours in zip(*times, strict=True))


# -- what is called ------------------------------------------------------------------------------------------------


def _loss(output: Tensor) -> Tensor:
    return output.float().pow(2).mean()


def _forward_backward(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Step:
    return module, inputs, _loss


def _optimizer(make: Callable[..., torch.optim.Optimizer], **options: Any) -> Callable[..., Step]:
    """The optimizer's step as a graph of its own."""

    def kind(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Step:
        _loss(module(*inputs)).backward()
        optimizer = make(module.parameters(), lr=1e-4, **options)
        optimizer.step()

        def step() -> None:
            optimizer.step()

        return step, (), None

    return kind


def _in_one(update: Callable[..., None]) -> Callable[..., Step]:
    """Forward, backward and the step in one graph, by torch.func."""

    def kind(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Step:
        weights = {name: one.detach().clone() for name, one in module.named_parameters()}
        moments = [{name: torch.zeros_like(one) for name, one in weights.items()} for _ in range(2)]

        def step(*args: Tensor) -> Tensor:
            def loss(given: dict[str, Tensor]) -> Tensor:
                return _loss(torch.func.functional_call(module, given, args))

            gradients, value = torch.func.grad_and_value(loss)(weights)
            for name, weight in weights.items():
                update(weight, gradients[name], *(one[name] for one in moments))
            return value  # type: ignore[no-any-return]

        return step, inputs, None

    return kind


def _sgd(weight: Tensor, gradient: Tensor, *_: Tensor) -> None:
    weight.sub_(gradient, alpha=1e-4)


def _adam(weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> None:
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
    weight.addcdiv_(first, second.sqrt().add_(1e-8), value=-1e-4)


KINDS: dict[str, Callable[..., Step]] = {
    "forward and backward": _forward_backward,
    "momentum": _optimizer(torch.optim.SGD, momentum=0.9),
    "adamw": _optimizer(torch.optim.AdamW),
    "step with sgd": _in_one(_sgd),
    "step with adam": _in_one(_adam),
}
