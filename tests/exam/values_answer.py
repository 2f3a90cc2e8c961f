"""Answers ``values:add`` in the exam's worker: an op's questions, each with harmless numbers and then with others.

``values:add!3!17`` leaves out the 3rd and the 17th call: they ended a process.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.testing._internal.opinfo.core import OpInfo

from djinn_fx.backend import compilations, reset
from djinn_fx.engines.bound.region import BoundRegion
from tests.exam.ops import Question, all_ops, full_name
from tests.exam.values import TIES, cases, difference, questions

#: An absurd size is to be an error of eager's, not the machine's end.
MEMORY_BYTES = 14 * 2**30
#: Calls with harmless numbers before the others; where several engines answer in turn, each gets some.
CALLS, CALLS_AUTO = 2, 8
#: A product for engines that take only graphs with one, of a size for which packing pays.
ROWS, WIDTH = 16, 64
WIDTHS = {"inductor-packed": 512, "onnxruntime": 8}


class Served:
    """Counts the answers of engines that bind weights."""

    count = 0
    _installed = False

    @classmethod
    def install(cls) -> None:
        """Count from now on."""
        if cls._installed:
            return
        cls._installed = True
        attempt = BoundRegion.attempt

        def counted(self: BoundRegion, args: list[Any]) -> Sequence[Any] | None:
            found = attempt(self, args)
            cls.count += found is not None
            return found

        BoundRegion.attempt = counted  # type: ignore[method-assign]


def answer(what: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What became of an op: see :class:`_Examination`."""
    Served.install()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    name, *left_out = what.split("!")
    (op,) = [op for op in all_ops() if full_name(op) == name]
    found = _Examination(op, given, {int(one) for one in left_out})
    found.run()
    return found.totals


class _Examination:
    """One op on one engine.

    ``totals``: ``wrong`` and ``excluded`` (aot_eager differs from eager, too) have ``[question, kind, what]``;
    ``calls`` how many were judged; ``harmless`` how many harmless calls there were and ``served`` how many of them the
    engine answered, ``answered`` how many of all calls.
    """

    def __init__(self, op: OpInfo, given: Mapping[str, Any], left_out: set[int]) -> None:
        self._op, self._options, self._left_out = op, dict(given["options"]), left_out
        self._engine = str(self._options.get("engine", "auto"))
        self._most = given.get("samples") or 99
        self._number = 0
        self.totals: dict[str, Any] = {
            "wrong": [], "excluded": [], "crashed": [], "skipped": {},
            "calls": 0, "harmless": 0, "served": 0, "answered": 0,
        }  # fmt: skip

    def run(self) -> None:
        """Ask all of it."""
        for asked, (label, question) in enumerate(questions(self._op)):
            if asked >= self._most:
                break
            reset()
            torch._dynamo.reset()
            gc.collect()
            with torch.no_grad():
                self._ask(label, question)

    def _ask(self, label: str, question: Question) -> None:
        torch.manual_seed(0)
        width = WIDTHS.get(self._engine, WIDTH)
        linear = torch.nn.Linear(width, width).eval()
        hidden = torch.randn(ROWS, width)

        def graph(hidden: torch.Tensor, *tensors: torch.Tensor) -> tuple[Any, list[Any]]:
            return linear(hidden), question.function(*tensors)

        compiled = torch.compile(graph, backend="djinn", options=dict(self._options))
        run = _Run(graph, hidden), _Run(compiled, hidden)
        calls = CALLS_AUTO if self._engine == "auto" else CALLS
        good = True
        for _ in range(calls):
            good = good and self._judge(label, "harmless", question, run, question.arguments)
        if not good:
            return
        for kind, tensors in cases(question):
            self._judge(label, kind, question, run, lambda tensors=tensors: [_twin(one) for one in tensors])
        self._judge(label, "harmless again", question, run, question.arguments)

    def _judge(
        self, label: str, kind: str, question: Question, run: tuple[_Run, _Run], make: Callable[[], list[torch.Tensor]]
    ) -> bool:
        """Whether the engine's answer is eager's; what is neither wrong nor right counts as not."""
        self._number += 1
        if self._number in self._left_out:
            return True
        where = f"{self._op.name} {label}: {kind}"
        print(f"\nAT {self._number} eager {where}", flush=True)
        given = make()
        expected = run[0](given)
        print(f"\nAT {self._number} djinn {where}", flush=True)
        before, mine = Served.count, make()
        found = run[1](mine)
        served = Served.count > before if self._engine not in ("inductor", "auto") else _built(self._engine)
        self.totals["calls"] += 1
        self.totals["answered"] += served
        if kind.startswith("harmless"):
            self.totals["harmless"] += 1
            self.totals["served"] += served
        wrong = self._compare(found, expected, mine, given)
        if wrong is None:
            return True
        print(f"\nAT {self._number} eager {where}", flush=True)  # aot_eager ends the process: as eager would
        torch.manual_seed(0)
        given = make()
        theirs = _Run(torch.compile(run[0].function, backend="aot_eager"), run[0].hidden)(given)
        excluded = self._compare(theirs, expected, given, given) is not None
        self.totals["excluded" if excluded else "wrong"].append([label, kind, wrong])
        return kind != "harmless"

    def _compare(self, found: Any, expected: Any, mine: list[Any], given: list[Any]) -> str | None:
        if isinstance(expected, Exception) or isinstance(found, Exception):
            if isinstance(expected, Exception) and isinstance(found, Exception):
                return None
            shown = [
                f"{type(one).__name__}: {str(one)[:160]}" if isinstance(one, Exception) else "a result"
                for one in (found, expected)
            ]
            return f"{shown[0]} for {shown[1]}"
        ties = self._op.name in TIES or self._op.name.rpartition(".")[2] in TIES
        return difference(found, expected, ties) or difference(mine, given)


class _Run:
    def __init__(self, function: Callable[..., Any], hidden: torch.Tensor) -> None:
        self.function, self.hidden = function, hidden

    def __call__(self, tensors: list[torch.Tensor]) -> Any:
        torch.manual_seed(42)
        try:
            return list(self.function(self.hidden, *tensors)[1])
        except Exception as error:  # noqa: BLE001 - an answer like any other: eager must give it, too
            return error


def _built(engine: str) -> bool:
    """Whether no region of what was compiled last was left to eager."""
    builds = [build for graph in compilations() for build in graph.builds]
    return bool(builds) and all(build.engine != "eager" for build in builds)


def _twin(tensor: torch.Tensor) -> torch.Tensor:
    copy: torch.Tensor = torch.clone(tensor, memory_format=torch.preserve_format)
    return copy
