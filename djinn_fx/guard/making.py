"""An engine's callable with the region's own ops beside it, from what is known of the two."""

from __future__ import annotations

from collections.abc import Callable

from djinn_fx.engines.base import RegionCallable, RegionGraph, Runner, as_runner
from djinn_fx.guard.compare import ANY
from djinn_fx.guard.facts import Facts
from djinn_fx.guard.guarded import GuardedRegion, Reproduce
from djinn_fx.guard.later import sampling
from djinn_fx.guard.tolerance import tolerance_in_single
from djinn_fx.reasons import Reason
from djinn_fx.srg.effects import written_places


def guarded(
    run: RegionCallable,
    reference: RegionCallable,
    *,
    label: str,
    engine: str,
    verify: str,
    mutated: tuple[int, ...],
    on_quarantine: Callable[[Reason], None],
    reproduce: Reproduce | None,
    high_precision: RegionCallable | None,
    region: RegionGraph | None = None,
    bindings: int = 1,
    precision: str = "exact",
    on_passed: Callable[[], None] | None = None,
    any_layout: bool = False,
    passed: bool = False,
    kind: Callable[..., GuardedRegion] | None = None,
) -> GuardedRegion:
    """An engine's callable with the region's own ops beside it.

    Args:
        run: what is to be compared.
        reference: the region, run eagerly.
        label: of the region, for messages.
        engine: the engine's name, for messages.
        verify: ``first``; ``sample:0.01``: also every hundredth later call; ``off``: nothing is compared.
        mutated: the arguments that a call writes into; those that ``region`` writes count without being named.
        on_quarantine: told once why the engine is not used any more: ``QUARANTINED``, or ``FALLBACK`` if it failed.
        reproduce: writes what is needed to see a miss again.
        high_precision: the region in float64, see ``precise.fp64_reference``.
        region: what is run. With it, tolerances are the narrower ones of its ops, the layouts that were promised count
            as right, and a region of fixed sizes is one shape.
        bindings: sets of weights that are to be compared, where they are bound one by one (``region.weights``).
        precision: what may be rounded of float32 (the setting of that name): then bounds are wider, and how far the
            first answer is from float64 is measured.
        on_passed: told once that the engine's first answer was right.
        any_layout: strides are the engine's own choice (Inductor's, in a region).
        passed: first answers were compared by an earlier process: only later ones are.
        kind: the class; None: every comparison is made in a call.

    Raises:
        ValueError: ``verify`` is none of these.
    """
    runner, facts = as_runner(run), Facts(region, bindings, precision)
    if runner.double_in_single:
        facts.bounds = tolerance_in_single
    if any_layout:
        facts.layouts = (ANY,) * len(facts.layouts)
    return (kind or GuardedRegion)(
        runner,
        reference,
        label=label,
        engine=engine,
        facts=facts,
        checks=verify != "off",
        every=sampling(verify),
        mutated=tuple(sorted({*mutated, *(written_places(region.gm.graph) if region is not None else ())})),
        on_quarantine=on_quarantine,
        reproduce=reproduce,
        high_precision=high_precision,
        measures=precision != "exact",
        on_passed=on_passed,
        passed=passed,
    )


def guarded_alone(
    run: Runner, reference: RegionCallable, dropped: Callable[[Reason], None], *, engine: str, verify: str
) -> GuardedRegion:
    """An artefact of whose region nothing is known, with the region's own ops beside it (:func:`guarded`).

    Args:
        run: the artefact; it says what it writes into, and what it is called.
        reference: the region, run eagerly.
        dropped: told why the artefact is not used any more.
        engine: whose it is.
        verify: as the setting of that name.
    """
    return guarded(
        run,
        reference,
        label=run.label,
        engine=engine,
        verify=verify,
        mutated=run.mutated,
        on_quarantine=dropped,
        reproduce=None,
        high_precision=None,
    )
