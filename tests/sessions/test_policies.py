"""Policies on traces made by hand, where the right answer is known."""

from __future__ import annotations

import math

import pytest

from djinn_fx.errors import SettingsError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.policy.named import POLICIES, policy_named
from djinn_fx.sessions.policy.state import Context, Phase, PlainPools, Tier

GB = 10**9


def pools() -> PlainPools:
    return PlainPools({Tier.DEVICE: 10 * GB, Tier.HOST: 40 * GB})


def waiting(policy: Policy, key: str, now: float, size: int = GB, **said: object) -> Context:
    """A context on the device whose turn ended just now."""
    context = Context(key, size_bytes=size, device_bytes=size, tokens=1000, since=now)
    policy.opened(context, now)
    again(policy, context, now, **said)
    return context


def again(policy: Policy, context: Context, now: float, **said: object) -> None:
    """Another turn of it ended."""
    context.phase = Phase.WANTED
    policy.began(context, now)
    context.phase, context.since, context.turns = Phase.WAITING, now, context.turns + 1
    for name, value in said.items():
        setattr(context, name, value)
    policy.ended(context, now)


def order(policy: Policy, now: float, tier: Tier = Tier.DEVICE) -> list[str]:
    return [move.context.key for move in policy.room(tier, 100 * GB, now)]


def made(name: str, **options: object) -> Policy:
    policy = policy_named(name, **options)
    policy.attach(pools())
    return policy


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"recompute"}))
def test_every_policy_names_everybody_once_and_says_why(name: str) -> None:
    policy = made(name)
    for number in range(5):
        waiting(policy, str(number), float(number), tool="shell", next_use=100.0 + number)
    moves = list(policy.room(Tier.DEVICE, 100 * GB, 50.0))
    assert sorted(move.context.key for move in moves) == list("01234")
    for move in moves:
        assert move.source is Tier.DEVICE
        reason = move.reason
        assert reason.kind is ReasonKind.EVICTED
        assert Reason.from_json(reason.to_json()) == reason


def test_least_recently_used_leaves_first() -> None:
    policy = made("lru-host")
    first = waiting(policy, "first", 0.0)
    waiting(policy, "second", 1.0)
    again(policy, first, 2.0)
    assert order(policy, 3.0) == ["second", "first"]
    moves = list(policy.room(Tier.DEVICE, GB, 3.0))
    assert moves[0].runner_up is first
    assert {move.target for move in moves} == {Tier.HOST}
    assert {move.target for move in made_with_one("lru").room(Tier.DEVICE, GB, 3.0)} == {Tier.NOWHERE}


def made_with_one(name: str) -> Policy:
    policy = made(name)
    waiting(policy, "only", 0.0)
    return policy


def test_recompute_keeps_nothing() -> None:
    policy = made_with_one("recompute")
    assert policy.wake() <= 0
    (move,) = policy.due(0.0)
    assert move.target is Tier.NOWHERE
    assert policy.wake() == math.inf


def test_what_is_wanted_or_read_never_leaves() -> None:
    for name in ("lru-host", "ttl", "arc", "djinn"):
        policy = made(name)
        busy, idle = waiting(policy, "busy", 0.0), waiting(policy, "idle", 5.0)
        busy.phase = Phase.WANTED
        policy.began(busy, 6.0)
        assert order(policy, 7.0) == ["idle"], name
        assert idle.key == "idle"


def test_a_time_to_live_keeps_what_awaits_a_tool() -> None:
    policy = made("ttl", tool_s=30.0)
    waiting(policy, "tool", 0.0, tool="shell")
    waiting(policy, "user", 5.0, tool="user")
    assert order(policy, 10.0) == ["user", "tool"]
    waiting(policy, "later", 40.0, tool="user")
    assert order(policy, 50.0) == ["user", "tool", "later"]


def test_least_waste_drops_the_large_that_wait_for_long() -> None:
    policy = made("min-waste")
    waiting(policy, "small", 0.0, size=GB)
    waiting(policy, "large", 10.0, size=5 * GB)
    # 100 s of 1 GB against 90 s of 5 GB.
    assert order(policy, 100.0) == ["large", "small"]


def test_steps_to_execution() -> None:
    policy = made("steps")
    waiting(policy, "near", 0.0, steps=1)
    waiting(policy, "far", 1.0, steps=7)
    waiting(policy, "unknown", 2.0)
    assert order(policy, 3.0) == ["far", "near", "unknown"]


def test_the_clairvoyant_evicts_who_is_wanted_last() -> None:
    policy = made("clairvoyant")
    for key, at in (("soon", 10.0), ("never", None), ("late", 1000.0)):
        waiting(policy, key, 0.0, next_use=at)
    assert order(policy, 1.0) == ["never", "late", "soon"]


def test_the_clairvoyant_fetches_just_in_time_in_the_place_of_who_is_wanted_later() -> None:
    policy = made("clairvoyant", margin_s=1.0, slack=1.0)
    policy.pools.used[Tier.DEVICE] = 10 * GB  # type: ignore[attr-defined]
    there = waiting(policy, "there", 0.0, size=5 * GB, next_use=500.0)
    away = waiting(policy, "away", 0.0, size=5 * GB, next_use=200.0)
    away.device_bytes, away.host_bytes = 0, 5 * GB
    policy.moved(away, Tier.DEVICE, Tier.HOST, 0.0)
    # Taking 5 GB over 25 GB/s it must begin at 200 - 1 - 0.2 s.
    while policy.wake() < 198.8:
        assert all(move.keep for move in policy.due(policy.wake()))
    assert policy.wake() == pytest.approx(198.8)
    out, into = policy.due(198.8)
    assert (out.context, out.target) == (there, Tier.HOST)
    assert (into.context, into.target) == (away, Tier.DEVICE)
    assert into.reason.kind is ReasonKind.TRANSFER


@pytest.mark.parametrize("name", ["djinn", "clairvoyant"])
def test_behind_a_long_queue_a_context_is_computed_anew_and_nothing_is_fetched_ahead(name: str) -> None:
    policy = made(name)
    own: PlainPools = policy.pools  # type: ignore[assignment]
    away = waiting(policy, "away", 0.0, size=5 * GB, next_use=0.5)
    away.device_bytes, away.host_bytes = GB, 5 * GB
    # 4 GB take 0.16 s over the link, 800 of 1000 tokens 0.08 s to compute.
    assert policy.recover_bytes(away, 0.0) == 4 * GB
    own.queued_s = 0.2
    assert policy.recover_bytes(away, 0.0) == 0, "0.36 s of the link against four times 0.08 s"
    own.token_s = 0.0
    assert policy.recover_bytes(away, 0.0) == 4 * GB, "nobody knows yet what computing takes"


def test_a_fetch_waits_until_the_link_has_done_what_is_queued() -> None:
    policy = made("clairvoyant")
    own: PlainPools = policy.pools  # type: ignore[assignment]
    away = waiting(policy, "away", 0.0, size=5 * GB, next_use=1.0)
    away.device_bytes, away.host_bytes = 0, 5 * GB
    policy.moved(away, Tier.DEVICE, Tier.HOST, 0.0)
    own.queued_s = 7.0
    woken = 0
    while (now := policy.wake()) < 5.0:
        assert not list(policy.due(now))
        woken += 1
    assert woken <= 3, "it sleeps for as long as the queue takes"
    own.queued_s = 0.0
    (into,) = policy.due(now)
    assert (into.context, into.target) == (away, Tier.DEVICE)


def taught(hint: float) -> Policy:
    """Tools that take 5 s, people who take from a minute to hours, and estimates that are ``hint`` times that."""
    policy = made("djinn")
    for number in range(40):
        for tool, lasts in (("shell", 5.0), ("user", 1000.0 * 4 ** (number % 5 - 2))):
            context = waiting(policy, f"{tool}{number}", 0.0, tool=tool, estimate_s=hint * lasts if hint else None)
            context.phase = Phase.WANTED
            policy.began(context, lasts)
            context.phase = Phase.CLOSED
            policy.closed(context, lasts)
    list(policy.due(1999.0))
    return policy


def test_ours_learns_that_tools_are_quick_and_people_slow() -> None:
    policy = taught(0.0)
    waiting(policy, "tool", 2000.0, tool="shell")
    waiting(policy, "user", 2001.0, tool="user")
    assert order(policy, 2002.0) == ["user", "tool"]


def test_ours_follows_exact_hints_as_the_clairvoyant_does() -> None:
    policy = taught(1.0)
    for key, seconds in (("soon", 10.0), ("late", 900.0), ("between", 100.0)):
        waiting(policy, key, 2000.0, tool="user", estimate_s=seconds)
    assert order(policy, 2001.0) == ["late", "between", "soon"]


def test_ours_learns_by_how_much_hints_are_off() -> None:
    policy = taught(0.1)  # always a tenth of the truth
    context = waiting(policy, "a", 2000.0, tool="user", estimate_s=10.0)
    assert policy.outlook(context, 2000.0).at == pytest.approx(2100.0, rel=0.01)  # type: ignore[attr-defined]


def test_ours_lets_a_wait_outlast_its_hint() -> None:
    policy = taught(1.0)
    context = waiting(policy, "a", 2000.0, tool="shell", estimate_s=5.0)
    in_time = policy.outlook(context, 2001.0).at - 2001.0  # type: ignore[attr-defined]
    overdue = policy.outlook(context, 2040.0).at - 2040.0  # type: ignore[attr-defined]
    assert in_time < 8 < 30 < overdue


def test_second_copies_leave_the_host_first() -> None:
    policy = made("djinn")
    there = waiting(policy, "there", 0.0)
    there.host_bytes = there.clean_bytes = GB
    policy.moved(there, Tier.DEVICE, Tier.HOST, 0.0)
    away = waiting(policy, "away", 0.0)
    away.device_bytes, away.host_bytes = 0, GB
    policy.moved(away, Tier.DEVICE, Tier.HOST, 0.0)
    first = next(iter(policy.room(Tier.HOST, GB, 1.0)))
    assert first.context is there
    assert first.target is Tier.NOWHERE


def test_a_plug_in_is_named_by_where_it_is() -> None:
    assert policy_named("djinn_fx.sessions.policy.baselines.ttl:TTL").name == "ttl"


@pytest.mark.parametrize(
    "name", ["lru-hots", "no.such.module:X", "djinn_fx.errors:DjinnError", "djinn_fx.units:nothing"]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(SettingsError):
        policy_named(name)


def test_a_tenant_over_its_quota_gives_up_what_it_has_too_much_first() -> None:
    policy = made("djinn")
    own: PlainPools = policy.pools  # type: ignore[assignment]
    own.quotas[("greedy", Tier.DEVICE)] = GB
    own.usage[("greedy", Tier.DEVICE)] = 3 * GB // 2
    for key, tenant, at in (("modest", "modest", 0.0), ("greedy", "greedy", 90.0)):
        context = Context(key, tenant=tenant, size_bytes=2 * GB, device_bytes=2 * GB, tokens=1000, since=at)
        policy.opened(context, at)
        policy.ended(context, at)
    first = next(iter(policy.room(Tier.DEVICE, GB, 100.0)))
    assert (first.context.key, first.nbytes) == ("greedy", GB // 2)
    own.usage.clear()
    assert order(policy, 100.0)[0] == "modest"
