"""In a worker: a graph that came, compiled as it would be here, by the same passes, engines and store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.choice import passes_for
from djinn_fx.compiling.graph import GraphCompiler
from djinn_fx.compiling.session import compile_session
from djinn_fx.compiling.workers.told import kinds_of, settings_of
from djinn_fx.engines.keys import Guards, symbolic_inputs
from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.srg.effects import written_places
from djinn_fx.srg.form.rebuild import CannotRebuild, SizeHint, rebuild
from djinn_fx.srg.record import GraphKind


class Compiled:
    """A graph that runs here.

    Args:
        captured: how it was planned and built.
        run: it.
        writes: inputs that it writes into.
        guards: facts about its sizes that it relies on.
    """

    def __init__(self, captured: CapturedGraph, run: Any, writes: Sequence[int], guards: str | None) -> None:
        self._run, self.writes = run, tuple(writes)
        builds = [{"engine": one.engine, "outcome": one.outcome, "seconds": one.seconds} for one in captured.builds]
        reasons = [reason.to_json() for build in captured.builds for reason in build.reasons]
        self.told: Mapping[str, Any] = {"builds": builds, "reasons": reasons, "guards": guards}

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
        hints = [SizeHint(value=int(value), positive=positive) for value, positive in form.content["hints"]]
        made = rebuild(form.form, hints=hints, devices=form.content["devices"])
    except CannotRebuild as error:
        raise EngineError(f"the graph cannot be rebuilt on a worker: {error}") from error
    symints = symbolic_inputs(made.example_inputs)
    writes = written_places(made.gm.graph)
    compiler = GraphCompiler(settings, passes_for(settings), kinds, note=lambda _: None, keeps=False)
    with compile_session():
        captured, run, _ = compiler.compile_aten(GraphKind.INFERENCE, made.gm)
    return Compiled(captured, run, writes, Guards.of(symints).expression)
