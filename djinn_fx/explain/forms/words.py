"""The words in which every form of a report says the same thing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from djinn_fx.explain.detail.sources import without_way
from djinn_fx.explain.detail.spent import Spent
from djinn_fx.explain.detail.values import ValueInfo
from djinn_fx.explain.finding.file import as_command
from djinn_fx.explain.report import (
    CacheInfo,
    Check,
    ContestInfo,
    GraphInfo,
    ModelInfo,
    PricingInfo,
    ReasonGroup,
    RegionInfo,
    Report,
)
from djinn_fx.hardware.catalogue import THIS_MACHINE
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg.memory import MemoryPeak
from djinn_fx.srg.plan import EngineTime
from djinn_fx.srg.record import Cost
from djinn_fx.units import format_bytes, format_count, format_seconds

#: What a reader wants to know first: what went wrong, then what was chosen, then what was understood.
IMPORTANCE = (
    ReasonKind.INFEASIBLE,
    ReasonKind.FALLBACK,
    ReasonKind.QUARANTINED,
    ReasonKind.ENGINE_REFUSED,
    ReasonKind.DECLINED,
    ReasonKind.NOT_RUNNABLE,
    ReasonKind.BUDGET,
    ReasonKind.WAITING,
    ReasonKind.UNCACHEABLE,
    ReasonKind.CACHE_UNUSABLE,
    ReasonKind.DRIFT,
    ReasonKind.ASSUMED,
    ReasonKind.UNPRICED,
    ReasonKind.SPLIT,
    ReasonKind.WHOLE,
    ReasonKind.ENGINE_CHOSEN,
    ReasonKind.PRICED,
    ReasonKind.EVICTED,
    ReasonKind.RECOMPUTED,
    ReasonKind.HINT,
    ReasonKind.CACHE_MISS,
    ReasonKind.CACHE_HIT,
    ReasonKind.STATE,
    ReasonKind.PHASE,
    ReasonKind.RELAID,
    ReasonKind.OUTSIDE_ARENA,
    ReasonKind.DEVICE_LOST,
    ReasonKind.TRANSFER,
    ReasonKind.PLACED,
    ReasonKind.COLOCATED,
    ReasonKind.ORDERED,
)


#: What is decided for every graph, and tells nothing of this one where nothing was chosen.
_ROUTINE = {
    kind.value
    for kind in (
        ReasonKind.PRICED,
        ReasonKind.TRANSFER,
        ReasonKind.PLACED,
        ReasonKind.COLOCATED,
        ReasonKind.ORDERED,
        ReasonKind.CACHE_HIT,
    )
}


def is_routine(reason: ReasonGroup) -> bool:
    """Whether only who wants to know everything wants to know it: nothing was there to be chosen."""
    return reason.kind in _ROUTINE and reason.runner_up is None


#: How a model was made, where it has no values.
_RUNGS = {
    1: "weights and inputs have sizes and types, and no values",
    2: "made under fake tensors, since its constructor uses its weights: all has sizes and types, and no values",
}


def found_text(report: Report) -> str:
    """By which rule the model was found, and how it was made."""
    rungs = sorted({scenario.rung for scenario in report.scenarios} & _RUNGS.keys())
    model = report.model
    where = [f"{model.file}, which was executed: {model.rule}" if model.attr or "--exec" in model.file else model.rule]
    return "; ".join([*where, *map(_RUNGS.__getitem__, rungs)])


def partial_text(model: ModelInfo, line: str) -> str:
    """Why the report ends, and what to do."""
    command = as_command(model.file, model.attr, *model.words, "--real")
    return f"{line}: what follows depends on values; {command} runs the model, with all of its memory"


def peak_text(peak: MemoryPeak, values: Mapping[str, ValueInfo]) -> str:
    """When most is in memory on a device, and what it is."""
    biggest = ", ".join(
        f"{value_text(row.name, values)} {format_bytes(row.nbytes)} ({row.holds.value})" for row in peak.biggest
    )
    if peak.at is None:
        return f"{format_bytes(peak.nbytes)} on {peak.device}: {biggest}"
    where = f", {source_text(peak.at.source)}" if peak.at.source else ""
    return f"{format_bytes(peak.nbytes)} on {peak.device} during {peak.at.name} ({peak.at.op}{where}): {biggest}"


def contest_texts(contest: ContestInfo) -> list[str]:
    """Who serves after a trial between engines, and how each of the others did."""
    ranked = sorted(contest.entrants, key=lambda one: (one.engine != contest.engine, one.median_s or math.inf))
    known = any(one.engine == contest.engine for one in ranked)
    texts = [] if known else [f"{contest.engine} serves"]
    for one in ranked:
        how = "serves" if one.engine == contest.engine else one.state
        took = f", {format_seconds(one.median_s)} an answer" if one.median_s is not None else ""
        copied = f", {format_bytes(one.memory_bytes)} of copied weights" if one.memory_bytes else ""
        texts.append(f"{one.engine} {how}{took}{copied}{f': {one.reason}' if one.reason else ''}")
    return texts if contest.decided else [*texts, "not decided yet: it goes on with further calls"]


def value_text(name: str, values: Mapping[str, ValueInfo]) -> str:
    """A value by the module it belongs to, where that is known."""
    known = values.get(name)
    return known.module if known is not None and known.module else name


def source_text(source: str) -> str:
    """A file:line, of an installed package without the way to it."""
    return without_way(source)


#: As much of a key as tells it apart.
_SHORT_KEY = 12
#: Share of the time from which a limit is told.
_WORTH_TELLING = 0.005


def limits_text(spent: Spent) -> str:
    """By what the ops are limited, the most frequent first."""
    limits = spent.limits
    total = limits.compute_s + limits.memory_s + limits.overhead_s
    shares = {"arithmetic": limits.compute_s, "memory traffic": limits.memory_s, "starting ops": limits.overhead_s}
    known = [(seconds / total, name) for name, seconds in shares.items()] if total > 0 else []
    return ", ".join(f"{name} {share:.0%}" for share, name in sorted(known, reverse=True) if share >= _WORTH_TELLING)


def costliest_text(spent: Spent, most: int = 5) -> str:
    """The costliest modules, with their shares of the time."""
    named = [one for one in spent.modules if one.name][:most]
    return ", ".join(
        f"{one.name}{f' ×{one.places}' if one.places > 1 else ''} {one.share:.0%} ({one.limited_by})" for one in named
    )


def per_token_text(graph: GraphInfo) -> str:
    """Seconds a token, of prefill and decode; empty for other graphs."""
    if not graph.tokens or graph.cost.provenance == "unpriced":
        return ""
    return f"{format_seconds(graph.cost.time_s / graph.tokens)} a token"


def phases_text(graph: GraphInfo) -> str:
    """How many ops are of which phase, and by what the graph's own was told: ``likely`` where that is no proof."""
    counts = ", ".join(f"{name} {count} op{plural_s(count)}" for name, count in graph.phases.items())
    rule = next((one.detail for one in graph.reasons if one.kind == ReasonKind.PHASE.value), "")
    return f"{counts}; {rule}" if counts and rule else counts or "none"


def pricing_text(pricing: PricingInfo) -> str:
    """Where estimated times come from, in one line."""
    by = f"{pricing.model}, for {pricing.device}"
    if pricing.profile is not None:
        noise = pricing.noise.get("between")
        spread = f", times repeat within {noise:.1%}" if noise is not None else ""
        return f"{by}; calibrated {pricing.profile[:10]}{spread}"
    if pricing.problem:
        return f"{by}; {pricing.problem}"
    here = pricing.device == THIS_MACHINE
    return f"{by}; not calibrated" + (": `djinn calibrate` takes a minute, and narrows the intervals" if here else "")


def group_regions(regions: Iterable[RegionInfo]) -> list[list[RegionInfo]]:
    """Regions that share an artefact, in order of the first of each; one without a hash stands alone."""
    groups: dict[str, list[RegionInfo]] = {}
    for region in regions:
        groups.setdefault(region.structural_hash or f"#{region.index}", []).append(region)
    return list(groups.values())


def group_label(group: list[RegionInfo]) -> str:
    """``"model.layers.1 … 11 ×11"``, ``"prologue … tail ×2"``, or the label alone."""
    first, last = group[0].label, group[-1].label
    if len(group) == 1:
        return first
    if first == last:
        return f"{first} ×{len(group)}"
    (first_owner, _, _), (last_owner, _, last_name) = first.rpartition("."), last.rpartition(".")
    shown = last_name if first_owner and first_owner == last_owner else last
    return f"{first} … {shown} ×{len(group)}"


def pays_text(region: RegionInfo) -> str:
    """After how many calls building a region has paid for itself."""
    calls = region.pays_after_calls
    return "never" if calls is None else f"{calls:,} call{plural_s(calls)}"


def rarely_called_text(regions: Iterable[RegionInfo], expected: int) -> str:
    """That building some regions pays after more calls than are expected, and what follows; empty where none does."""
    rare = [region for region in regions if region.pays_after_calls is not None and region.pays_after_calls > expected]
    if not rare:
        return ""
    return (
        f"{expected:,} calls are expected (expected_calls): with compile=lazy a region that pays after more stays "
        "on its own ops until its calls tell otherwise"
    )


def reason_text(reason: ReasonGroup) -> str:
    """One reason in one sentence, with the nodes it is about."""
    return f"{reason.kind}: {reason_detail(reason)}"


def reason_detail(reason: ReasonGroup) -> str:
    """The same without its kind."""
    nodes = f" [{some(list(reason.nodes), 2)}]" if reason.nodes else ""
    text = f"{reason.detail}{nodes}"
    if reason.runner_up:
        text += f" (instead of {reason.runner_up}{f': {reason.runner_up_cost}' if reason.runner_up_cost else ''})"
    return text


def check_text(check: Check) -> str:
    """The comparison with eager in one line."""
    if check.equal is None:
        return check.note
    within = f"rtol {check.rtol:g}, atol {check.atol:g}"
    verdict = "equal to eager" if check.equal else "NOT EQUAL to eager"
    return f"{verdict}: largest difference {check.max_difference:.2e} ({within})"


def memory_text(foretold: int, live: int) -> str:
    """The peak that was foretold beside the one that was measured."""
    measured = f"{format_bytes(live)} of tensors at most in a further call"
    return f"{measured}, {format_bytes(foretold)} foretold for the graphs' own ops ({live / max(1, foretold) - 1:+.2%})"


def cache_text(cache: CacheInfo) -> str:
    """What the disk cache had, and of the first that it had not, the command that says why.

    Where nothing was built: of how many regions something was built before. Empty if of none.
    """
    if not cache.hits and not cache.misses:
        return _built_before(cache)
    missed = next((one for one in cache.lookups if one.key and one.outcome not in ("memory", "store", "stored")), None)
    more = f"; `djinn cache why {missed.key[:_SHORT_KEY]}` says more" if missed is not None else ""
    return f"{cache.hits} artefact{plural_s(cache.hits)} found, {cache.misses} not{more}"


def _built_before(cache: CacheInfo) -> str:
    there = {(one.scenario, one.graph, one.region) for one in cache.lookups}
    engines = ", ".join(dict.fromkeys(one.engine for one in cache.lookups))
    return f"{len(there)} distinct region{plural_s(len(there))} built before, by {engines}" if there else ""


def cost_text(cost: Cost) -> str:
    """What is done, and how long it takes by estimate."""
    moved = format_bytes(cost.read_bytes + cost.write_bytes)
    if cost.provenance == "unpriced":
        return f"{format_count(cost.flops)} flop, {moved} moved, time unknown"
    return f"{format_count(cost.flops)} flop, {moved} moved, {interval_text(cost)} estimated ({cost.provenance})"


#: An interval that is wider than this says that the time is hardly known, which is said in words.
_WIDE = 8


def interval_text(cost: Cost | EngineTime) -> str:
    """A time with its 80 % interval, where it has one."""
    if not cost.low_s < cost.high_s:
        return format_seconds(cost.time_s)
    if cost.high_s > _WIDE * cost.low_s:
        return f"about {format_seconds(cost.time_s)} (it may be {cost.high_s / cost.time_s:.0f} x as long)"
    return f"{format_seconds(cost.time_s)} ({format_seconds(cost.low_s)} to {format_seconds(cost.high_s)})"


def time_text(cost: Cost) -> str:
    """An estimated time."""
    return "unknown" if cost.provenance == "unpriced" else format_seconds(cost.time_s)


def some(texts: list[str], most: int, separator: str = ", ") -> str:
    """The first of several texts, and how many more there are."""
    more = f"{separator}+{len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def plural_s(count: int) -> str:
    """The ending of a noun that so many are counted of."""
    return "" if count == 1 else "s"
