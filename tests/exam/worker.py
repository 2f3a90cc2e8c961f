"""Answers questions of the exam in a process of its own: one JSON line for each name it reads from stdin.

A question names a kind and a thing: ``op:add``, ``module:Linear``, ``forward:llama/prefill``, ``train:bert/encode``,
``generate:llama/static``, ``values:add``. What a compiler gets wrong counts against it only where eager and
``backend="aot_eager"`` are right. Of right answers it is told which engines gave them: the one that was asked for, or
others because it refused, or was found to be wrong by djinn itself.
"""

from __future__ import annotations

import copy
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from djinn_fx.backend import compilations, reset, status
from djinn_fx.compiling import choice
from djinn_fx.dispatch import build as builds
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.record import GraphKind
from tests.exam.ops import all_ops, differences, full_name, questions

#: Engines that take whole graphs, or refuse them.
WHOLE = ("openvino", "onnxruntime", "packed")
#: What is said of a graph that is left to others.
_REFUSALS = (ReasonKind.ENGINE_REFUSED, ReasonKind.NOT_RUNNABLE, ReasonKind.FALLBACK)

#: Result of running something: tensors and plain values, in a fixed order.
Run = Callable[[Callable[..., Any]], list[Any]]


def main() -> None:
    """Read names, answer each. The first argument: JSON of options, samples and scale."""
    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given["options"].get("engine") in WHOLE:
        # What these refuse would be compiled by Inductor, which has a turn of its own; here eager takes it.
        for module in (builds, choice):
            module.tier_names = lambda settings: ()  # type: ignore[attr-defined]
    for line in sys.stdin:
        name = line.strip()
        start = time.perf_counter()
        answer = _answer(name, given)
        answer.update(name=name, seconds=round(time.perf_counter() - start, 2))
        print("\nANSWER " + json.dumps(answer), flush=True)


def _answer(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    kind, _, what = name.partition(":")
    if kind == "values":
        from tests.exam.values_answer import answer

        return answer(what, given)
    totals: dict[str, Any] = {
        "passed": 0, "skipped": {}, "wrong": [], "crashed": [], "fell_back": [],
        "refused": {}, "quarantined": [], "engines": {},
    }  # fmt: skip
    try:
        for label, loose, run in _runs(kind, what, given):
            _judge(f"{name} {label}".strip(), loose, run, given["options"], totals)
    except Exception as error:  # noqa: BLE001 - a question that cannot be asked is told as such
        _skip(totals, f"cannot be asked: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return totals


def _skip(totals: dict[str, Any], reason: str) -> None:
    _count(totals["skipped"], reason)


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _judge(label: str, loose: bool, run: Run, options: Mapping[str, Any], totals: dict[str, Any]) -> None:
    try:
        expected = run(lambda function: function)
    except Exception as error:  # noqa: BLE001 - not ours
        _skip(totals, f"eager: {type(error).__name__}")
        return
    reset()
    torch._dynamo.reset()
    compiled: list[Any] = []

    def compile_it(function: Any) -> Any:
        compiled.append(torch.compile(function, backend="djinn", options=dict(options)))
        return compiled[-1]

    ours = _tried(lambda: run(compile_it), expected, loose)
    if ours is None:
        totals["passed"] += 1
        fallen = [build for graph in compilations() for build in graph.builds if build.outcome == "fallback"]
        totals["fell_back"] += [f"{label}: {reason.detail}" for build in fallen for reason in build.reasons]
        _tell_engines(label, compiled, str(options.get("engine", "auto")), totals)
        return
    torch._dynamo.reset()
    theirs = _tried(lambda: run(lambda f: torch.compile(f, backend="aot_eager")), expected, loose)
    if theirs is not None:
        _skip(totals, "aot_eager fails too")
    else:
        totals["crashed" if ours.startswith("raised") else "wrong"].append(f"{label}: {ours}")


def _tell_engines(label: str, compiled: list[Any], wanted: str, totals: dict[str, Any]) -> None:
    """Who gave the answers, and why it was not the engine that was asked for."""
    answered, reasons = answers_of(compiled)
    for name in answered:
        _count(totals["engines"], name)
    quarantined = [reason.detail for reason in reasons if reason.kind is ReasonKind.QUARANTINED]
    if quarantined:
        totals["quarantined"].append(f"{label}: {quarantined[0][:300]}")
    elif wanted not in ("auto", *answered):
        told = [reason.detail for reason in reasons if reason.kind in _REFUSALS]
        _count(totals["refused"], told[0][:200] if told else _unsaid(reasons))


def _unsaid(reasons: list[Reason]) -> str:
    if not any(graph.builds for graph in compilations()):
        return "there is nothing for an engine to do"
    training = any(graph.srg.kind is not GraphKind.INFERENCE for graph in compilations())
    return "a graph of a training step" if training else "no reason was given" + (f": {reasons[0]}" if reasons else "")


def answers_of(compiled: list[Any]) -> tuple[set[str], list[Reason]]:
    """The engines that gave answers since the last reset, and every Reason that is told of them."""
    all_builds = [build for graph in compilations() for build in graph.builds]
    states = [status(one) for one in compiled]
    entrants = [entrant for state in states for contest in state.contests for entrant in contest.entrants]
    answered = {entrant.engine for entrant in entrants if entrant.answers}
    if not entrants:
        answered |= {build.engine for build in all_builds}
    reasons = [reason for graph in compilations() for reason in graph.reasons]
    reasons += [entrant.reason for entrant in entrants if entrant.reason is not None]
    reasons += [tier.reason for state in states for one in state.regions for tier in one.entrants if tier.reason]
    return answered, reasons


def _tried(run: Callable[[], list[Any]], expected: list[Any], loose: bool) -> str | None:
    try:
        return differences(run(), expected, loose=loose)
    except Exception as error:  # noqa: BLE001 - counted as a crash where aot_eager passes
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        return f"raised {type(error).__name__}: {text[:200]} ({last.filename.rpartition('/')[2]}:{last.lineno})"


def _runs(kind: str, what: str, given: Mapping[str, Any]) -> Iterator[tuple[str, bool, Run]]:
    """Every way of asking: a label, whether small differences are allowed, and how to run it."""
    if kind == "op":
        yield from _of_op(what, given["samples"], given.get("calls", 1))
    elif kind == "module":
        yield from _of_module(what)
    else:
        from tests.exam import models

        models.scale_by(given["scale"])
        makers = {"forward": models.forward, "train": models.train, "generate": models.generate, "steps": models.steps}
        maker = makers[kind]
        yield "", True, maker(what)


def _of_op(name: str, samples: int, calls: int) -> Iterator[tuple[str, bool, Run]]:
    (op,) = [op for op in all_ops() if full_name(op) == name]
    for question in questions(op, samples):

        def run(compile_it: Any, question: Any = question) -> list[Any]:
            function, found = compile_it(question.function), []
            for _ in range(calls):
                arguments = question.arguments()
                torch.manual_seed(42)
                with torch.no_grad():
                    results = list(function(*arguments))
                if question.defined:
                    found += [*results, *arguments]
                else:
                    found += [torch.zeros_like(r) if isinstance(r, torch.Tensor) else None for r in results]
            return found

        yield f"sample {question.number} of {question.name}", True, run


def all_modules() -> list[str]:
    """Names in torch's database of modules."""
    from torch.testing._internal.common_modules import module_db

    return list(dict.fromkeys(info.name for info in module_db))


def _of_module(name: str) -> Iterator[tuple[str, bool, Run]]:
    from torch.testing._internal.common_modules import module_db

    info = next(info for info in module_db if info.name == name)
    for training in (False, True):
        torch.manual_seed(0)
        inputs = info.module_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=training, training=training
        )
        for number, one in enumerate(inputs[:3]):
            torch.manual_seed(0)
            start = info.module_cls(*one.constructor_input.args, **one.constructor_input.kwargs).train(training)

            def run(compile_it: Any, start: Any = start, one: Any = one, training: bool = training) -> list[Any]:
                module = copy.deepcopy(start)
                call = compile_it(module)
                args, kwargs = copy.deepcopy((one.forward_input.args, one.forward_input.kwargs))
                torch.manual_seed(0)
                with torch.set_grad_enabled(training):
                    results = tensors_in(call(*args, **kwargs))
                if not training:
                    return [*results, *(b.clone() for b in module.buffers())]
                loss = sum((r.float().pow(2).sum() for r in results if r.requires_grad), torch.zeros(()))
                if loss.requires_grad:
                    loss.backward()
                gradients = [p.grad for p in module.parameters() if p.grad is not None]
                return [*(r.detach() for r in results), *gradients, *(b.clone() for b in module.buffers())]

            yield f"input {number}, {'training' if training else 'inference'}", True, run


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested results, those of a cache of keys and values included."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if hasattr(value, "layers"):
        return [t for layer in value.layers for t in (layer.keys, layer.values) if isinstance(t, torch.Tensor)]
    if hasattr(value, "self_attention_cache"):
        return [*tensors_in(value.self_attention_cache), *tensors_in(value.cross_attention_cache)]
    return []


if __name__ == "__main__":
    main()
