"""What a pass is, and the runner that keeps passes to their promises."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.errors import DjinnError, PassError, SettingsError
from djinn_fx.passes.placing.request import Placing
from djinn_fx.reasons import Reason
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.verify import verify

log = logging.getLogger("djinn_fx.passes")


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """What a pass may know besides the graph.

    Attributes:
        device: the device this plan is for, as text (``"cpu"``, ``"cuda:0"``).
        expected_calls: how often the compiled graph is expected to be called; weighs run time against compile time.
        pricing: by what ops and regions are priced; None: by datasheets.
        placing: devices that the graph may be spread over; None: it stays on ``device``.
        foreseen: devices that are not here: what they would have is told, and nothing else changes.
    """

    device: str = "cpu"
    expected_calls: int = 1000
    pricing: Pricing | None = None
    placing: Placing | None = None
    foreseen: Placing | None = None


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """What a pass did: whether any record or graph-level fact changed, and why."""

    modified: bool
    reasons: tuple[Reason, ...] = ()


@runtime_checkable
class Pass(Protocol):
    """One step of the pipeline: a frozen dataclass whose fields are its options.

    ``name`` is how the pass is written in text; ``after`` names passes that must have run before it;
    ``requires`` and ``ensures`` name invariants of :mod:`djinn_fx.srg.verify` that hold before and after.
    """

    name: ClassVar[str]
    after: ClassVar[tuple[str, ...]]
    requires: ClassVar[tuple[str, ...]]
    ensures: ClassVar[tuple[str, ...]]

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Change records and graph-level facts of ``srg``."""
        ...


@dataclass(frozen=True, kw_only=True)
class PassTiming:
    """How long one pass took, in seconds."""

    name: str
    seconds: float
    modified: bool


@dataclass(kw_only=True)
class PipelineResult:
    """What a run of the pipeline did."""

    timings: list[PassTiming] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)


def run_passes(
    srg: SRG, passes: Sequence[Pass], context: PassContext, *, check: bool = False, before: Sequence[Pass] = ()
) -> PipelineResult:
    """Run passes in order.

    Args:
        srg: the graph; changed in place.
        passes: in the order they run.
        context: what they may know.
        before: passes that ran on this graph earlier, and whose decisions hold.
        check: verify the pass's ``requires`` before and ``ensures`` (and all structural invariants) after it.

    Raises:
        PassError: a pass raised, or runs before one it must follow; the message names the pass, the node if
            known, and the passes that ran before.
        InfeasibleError: a budget or the devices are too small.
    """
    result = PipelineResult()
    ran = [one.name for one in before]
    for one in passes:
        missing = [name for name in one.after if name not in ran]
        if missing:
            raise PassError(f"pass {one.name!r} must run after {', '.join(missing)}; ran so far: {_listed(ran)}")
        start = time.perf_counter()
        try:
            if check and one.requires:
                verify(srg, one.requires)
            outcome = one.run(srg, context)
            if check:
                srg.made_by = one.name
                verify(srg, one.ensures)
        except SettingsError:
            raise  # what the user asked for cannot be: no pass is to blame
        except DjinnError as error:
            raise PassError(f"pass {one.name!r} failed: {error}; ran before it: {_listed(ran)}") from error
        except Exception as error:
            raise PassError(
                f"pass {one.name!r} failed with {type(error).__name__}: {error}; ran before it: {_listed(ran)}"
            ) from error
        if not type(one).__module__.startswith("djinn_fx."):
            srg.forget_facts()  # a user's pass may change the graph itself
        srg.made_by = one.name
        ran.append(one.name)
        seconds = time.perf_counter() - start
        result.timings.append(PassTiming(name=one.name, seconds=seconds, modified=outcome.modified))
        result.reasons.extend(outcome.reasons)
        srg.reasons = (*srg.reasons, *outcome.reasons)
        log.debug("%s: %.1f ms, modified=%s", one.name, seconds * 1e3, outcome.modified)
    return result


_PASS_TEXT = re.compile(r"\s*([a-z][a-z0-9-]*)\s*(?:\{([^{}]*)\})?\s*")


def from_text(text: str, table: dict[str, type[Pass]]) -> Pass:
    """A pass from its name and options in text, e.g. ``find-regions{min-ops=4}``.

    Raises:
        SettingsError: unknown pass, unknown option, or a value of the wrong type.
    """
    match = _PASS_TEXT.fullmatch(text)
    if match is None:
        raise SettingsError(f"cannot read the pass {text!r}: write name or name{{option=value,...}}")
    name, body = match[1], match[2] or ""
    if name not in table:
        raise SettingsError(f"unknown pass {name!r}; known: {', '.join(sorted(table))}")
    cls = table[name]
    known = {f.name.replace("_", "-"): f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for item in filter(None, (part.strip() for part in body.split(","))):
        key, _, raw = item.partition("=")
        if key not in known:
            raise SettingsError(f"pass {name!r} has no option {key!r}; known: {', '.join(sorted(known)) or 'none'}")
        option = known[key]
        try:
            values[option.name] = _parse(raw, type(option.default))
        except ValueError as error:
            raise SettingsError(f"pass {name!r}, option {key!r}: cannot read {raw!r}: {error}") from error
    return cls(**values)


def _parse(raw: str, kind: type) -> object:
    if kind is bool:
        if raw not in ("True", "False"):
            raise ValueError("write True or False")
        return raw == "True"
    return kind(raw)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
