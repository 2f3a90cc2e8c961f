"""Runs a reproducer's region alone: eagerly, in float64, and by the engine, and measures how far they are apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from djinn_fx.engines.base import Artefact, Engine, RegionCallable
from djinn_fx.engines.randomness import Randomness
from djinn_fx.engines.registry import ENGINES, engine
from djinn_fx.errors import DjinnError, EngineError, StoreError
from djinn_fx.guard.compare import form, gap_of, misses, unequal
from djinn_fx.guard.examine import Comparison, Finding, examine
from djinn_fx.guard.facts import Facts
from djinn_fx.guard.precise import fp64_reference
from djinn_fx.guard.repro.read import Reproduced
from djinn_fx.guard.trial import copied
from djinn_fx.settings.engines import may_round
from djinn_fx.settings.table import Settings


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result, or one argument that is written.

    Attributes:
        name: ``result 0`` or ``argument 3``.
        form: sizes, type and device of eager's.
        eager: how far eager is from float64, ``largest (relative)``; empty if that is not known.
        engine: how far the engine is from float64.
        apart: how far the engine is from eager.
        agrees: whether the engine's counts as eager's by tolerance alone.
    """

    name: str
    form: str
    eager: str
    engine: str
    apart: str
    agrees: bool


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came out.

    Attributes:
        rows: of the comparison; none if the engine failed.
        finding: the guard's.
        changed: names in the engine's fingerprint that are others than then: was, is.
        note: why there is no run in float64; empty if there is.
    """

    rows: tuple[Row, ...]
    finding: Finding
    changed: dict[str, tuple[str, str]]
    note: str = ""


def settings_of(given: Reproduced) -> Settings:
    """The settings in force then; names that are no settings any more are left out.

    Raises:
        StoreError: a value that is none.
    """
    known = {name: value for name, value in given.record.settings.items() if name in Settings.model_fields}
    try:
        return Settings(**known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(f"{given.folder}: its setting {where} is not accepted: {first['msg']}") from error


def replay(given: Reproduced, *, use_payload: bool = False) -> Replay:
    """Run a reproducer.

    Args:
        given: the directory.
        use_payload: load the stored artefact instead of compiling anew. It may hold machine code.

    Raises:
        StoreError: the directory does not hold what is needed.
        EngineError: the engine is not here or refuses the region, or eager fails too.
    """
    settings = settings_of(given)
    name = given.record.engine
    if name not in ENGINES:
        raise EngineError(f"{given.folder}: no engine {name!r} is known here")
    one = engine(name, settings)
    capability = one.capability()
    if not capability.can_run or not (use_payload or capability.can_build):
        raise EngineError(f"{name} does not run here: {capability.why_not or 'no reason given'}")
    refusal = one.supports(given.region) if not use_payload else None
    if refusal is not None:
        raise EngineError(f"{name} does not take this region any more: {refusal.detail}")
    with _threads(given.record.threads), torch.no_grad():
        payload = given.payload() if use_payload else None
        case, precise_note = _case(given)
        try:
            run = _callable(one, given, payload)
        except EngineError as error:
            return Replay(rows=(), finding=Finding(failed=str(error)), changed=_changed(one, given))
        answers: list[tuple[Sequence[Any], Sequence[Any]]] = []
        finding = examine(_noting(run, answers), case, tries=2)
        rows = tuple(_rows(case, *answers[0])) if answers else ()
    return Replay(rows=rows, finding=finding, changed=_changed(one, given), note=precise_note)


def _callable(one: Engine, given: Reproduced, payload: bytes | None) -> RegionCallable:
    if payload is not None:
        assert given.record.header is not None, "checked when the payload was read"
        return one.load(Artefact(header=given.record.header, payload=payload))
    artefact = one.compile(given.region)
    return artefact.ready if artefact.ready is not None else one.load(artefact)


def _noting(run: RegionCallable, answers: list[Any]) -> Callable[[list[Any]], Sequence[Any]]:
    """Keeps the answers, and the arguments they were given for."""

    def noted(args: list[Any]) -> Sequence[Any]:
        given = list(args)
        results = run(args)
        answers.append((results, given))
        return results

    return noted


def _case(given: Reproduced) -> tuple[Comparison, str]:
    record, region = given.record, given.region
    facts = Facts(region, 1, may_round(record.engine, str(record.settings.get("precision", "exact"))))
    pristine = given.arguments()
    kept = copied(pristine, record.mutated)
    chance = Randomness(kept)

    def reference(args: list[Any]) -> Sequence[Any]:
        taken = tuple(args)
        args.clear()
        results: Sequence[Any] = region.gm(*taken)
        return results

    try:
        expected = reference(list(kept))
    except Exception as error:
        raise EngineError(f"{given.folder}: the region fails eagerly as well: {error}") from error
    precise = fp64_reference(region.gm)
    case = Comparison(
        pristine=pristine,
        kept=kept,
        expected=expected,
        mutated=tuple(record.mutated),
        reference=reference,
        precise=precise,
        bounds=facts.bounds,
        layouts=facts.layouts,
        rewind=chance.rewind,
    )
    return case, "" if precise is not None else "the region has no form in float64"


def _rows(case: Comparison, found: Sequence[Any], given: Sequence[Any]) -> Iterator[Row]:
    ours = [*found, *(given[place] for place in case.mutated)]
    right = [*case.expected, *(case.kept[place] for place in case.mutated)]
    names = [f"result {place}" for place in range(len(case.expected))] + [f"argument {place}" for place in case.mutated]
    exact = _exact(case)
    if len(ours) != len(right):
        return
    for place, name in enumerate(names):
        mine, other, truth = ours[place], right[place], exact[place] if exact is not None else None
        yield Row(
            name=name,
            form=form(other) if isinstance(other, torch.Tensor) else type(other).__name__,
            eager=_apart(other, truth),
            engine=_apart(mine, truth),
            apart=_apart(mine, other),
            agrees=not any(True for _ in misses([mine], [other], case.bounds, case.layouts[place : place + 1])),
        )


def _exact(case: Comparison) -> list[Any] | None:
    if case.precise is None:
        return None
    args = copied(case.pristine, case.mutated)
    try:
        results = case.precise(list(args))
    except Exception:  # noqa: BLE001  (an op without a float64 kernel: the column stays empty, the verdict says why)
        return None
    return [*results, *(args[place] for place in case.mutated)]


def _apart(one: Any, other: Any) -> str:
    """``1.2e-07 (3e-08)``: the largest difference and that of the whole; a count for whole numbers."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return ""
    if not (other.is_floating_point() or other.is_complex()) or not (one.is_floating_point() or one.is_complex()):
        count = unequal(one, other) if one.dtype == other.dtype else other.numel()
        return f"{count} of {other.numel()}"
    gap = gap_of(one, other.to(one.device), one.dtype)
    return gap.odd or f"{gap.worst:.2g} ({gap.relative:.2g})"


def _changed(one: Engine, given: Reproduced) -> dict[str, tuple[str, str]]:
    try:
        now = dict(one.fingerprint())
    except DjinnError:
        return {}
    then = given.record.fingerprint
    names = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    return {name: (then.get(name, "none"), now.get(name, "none")) for name in names}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads of torch's as then, where this machine has them."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
