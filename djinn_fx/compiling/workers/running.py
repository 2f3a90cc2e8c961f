"""In a worker: a graph that came, compiled as it would be here, by the same passes, engines and store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.fx import GraphModule

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.choice import passes_for
from djinn_fx.compiling.entry.session import compile_session
from djinn_fx.compiling.graph import GraphCompiler
from djinn_fx.compiling.readiness import GraphHandle
from djinn_fx.compiling.workers.told import kinds_of, settings_of
from djinn_fx.engines.base import Runner, as_runner
from djinn_fx.engines.keys import Guards, symbolic_inputs
from djinn_fx.errors import EngineError, InfeasibleError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.effects import written_places
from djinn_fx.srg.form.rebuild import CannotRebuild, SizeHint, rebuild
from djinn_fx.srg.record import GraphKind, Residency


class _Handle(GraphHandle):
    """Of a graph that runs here; keeps what runs it."""

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm, ())
        self._runners: dict[int, Runner] = {}

    def add(self, callables: Iterable[Any]) -> None:
        """See :meth:`GraphHandle.add`."""
        given = list(callables)
        super().add(given)
        self._runners.update({id(one): as_runner(one) for one in given})

    @property
    def copied_bytes(self) -> int:
        """What engines keep of the weights, now."""
        competing = (*self.contests, *self.regions)
        entered = {id(entrant.run): entrant.run for one in competing for entrant in one.entrants}
        return sum(one.memory_bytes for one in (*self._runners.values(), *entered.values()))


class Compiled:
    """A graph that runs here.

    Args:
        captured: how it was planned and built.
        run: it.
        writes: inputs that it writes into.
        guards: facts about its sizes that it relies on.
        handle: what competes to run it.
    """

    def __init__(
        self, captured: CapturedGraph, run: Any, writes: Sequence[int], guards: str | None, handle: _Handle
    ) -> None:
        self._run, self.writes, self._handle = run, tuple(writes), handle
        builds = [{"engine": one.engine, "outcome": one.outcome, "seconds": one.seconds} for one in captured.builds]
        budget = [one for one in captured.plan.reasons if one.kind is ReasonKind.BUDGET]
        reasons = [*budget, *(reason for build in captured.builds for reason in build.reasons)]
        self.told: Mapping[str, Any] = {
            "builds": builds,
            "reasons": [one.to_json() for one in reasons],
            "guards": guards,
        }

    @property
    def copied_bytes(self) -> int:
        """What engines keep of the weights besides these, now."""
        return self._handle.copied_bytes

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Its outputs; empties the list."""
        made: Sequence[Any] = self._run(args)
        return made


def build(form: GraphForm, told: Mapping[str, Any]) -> Compiled:
    """See :data:`djinn_fx.remote.workers.serving.Build`.

    Raises:
        EngineError: it cannot be rebuilt or compiled here, or what is told about it is not what it should be.
    """
    settings, kinds = settings_of(told), kinds_of(told, len(form.form["inputs"]))
    try:
        return _compiled(form, settings, kinds)
    except InfeasibleError as error:  # by a few bytes: the placement, which decides what goes here, reckons otherwise
        alone = settings.model_copy(update={"engine": EAGER, "memory_budget": None})
        detail = f"own ops alone, no engine's copies of weights: {error}"
        return _compiled(form, alone, kinds, Reason(kind=ReasonKind.BUDGET, detail=detail))


def _compiled(form: GraphForm, settings: Settings, kinds: Sequence[Residency], *why: Reason) -> Compiled:
    """A graph compiled; ``why``: what is to be told of it first."""
    try:
        hints = [SizeHint(value=int(value), positive=positive) for value, positive in form.content["hints"]]
        made = rebuild(form.form, hints=hints, devices=form.content["devices"])
    except CannotRebuild as error:
        raise EngineError(f"the graph cannot be rebuilt on a worker: {error}") from error
    symints = symbolic_inputs(made.example_inputs)
    writes = written_places(made.gm.graph)
    handle = _Handle(made.gm)
    compiler = GraphCompiler(settings, passes_for(settings), kinds, handle, note=lambda _: None, keeps=False)
    with compile_session():
        captured, run, _ = compiler.compile_aten(GraphKind.INFERENCE, made.gm)
    captured = replace(captured, plan=replace(captured.plan, reasons=(*why, *captured.plan.reasons)))
    return Compiled(captured, run, writes, Guards.of(symints).expression, handle)
