"""Sessions over a pool that is too small for them: the same tokens and the same bytes as with room for all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from djinn_fx.errors import DjinnError, InfeasibleError
from djinn_fx.reasons import ReasonKind
from djinn_fx.sessions.conversation import Answered
from djinn_fx.sessions.manager import SessionManager
from djinn_fx.sessions.policy.named import policy_named
from djinn_fx.sessions.pools.checks import check
from djinn_fx.sessions.steps.scheduling import bucket, pages_at_most, tokens_of_step
from tests.sessions.models import (
    KINDS,
    cached,
    go_on,
    looked_at,
    manual,
    run,
    tokens,
    turn,
    with_weights_of_its_own,
)

SESSIONS, ROUNDS, NEW, MADE = 12, 2, 40, 4


def asked(number: int) -> dict[str, tuple[int, ...]]:
    return {f"s{place}": tokens(NEW + place, 10 * number + place) for place in range(SESSIONS)}


def small(kind: str) -> int:
    """Pages for the longest of the sessions and a little: less than half of what all have."""
    longest = ROUNDS * (NEW + SESSIONS + MADE)
    layout = looked_at(kind).layout
    return pages_at_most(layout, longest, 16, 32) + 2 * len(layout.groups) + 2


def replayed(kind: str, told: SessionManager) -> tuple[SessionManager, dict[str, list[Answered]]]:
    """The schedule of another manager, carried out with room for everything."""
    manager, mover = manual(looked_at(kind), 2000)
    answers: dict[str, list[Answered]] = {key: [] for key in asked(0)}
    for key in answers:
        manager.open(key)
    waiting = {key: [asked(number)[key] for number in range(ROUNDS)] for key in answers}
    for step in told.steps:
        for key in step.sessions:
            one = manager.conversations[key]
            if not one.turns:
                encoder = None
                if manager.model.traits.encodes and not one.tokens:
                    encoder = torch.tensor([tokens(9 + len(key), 7)])
                made = turn(manager, waiting[key].pop(0), MADE, encoder_ids=encoder)
                made.future.add_done_callback(lambda done, key=key: answers[key].append(done.result()))
                manager.submit(one, made)
                manager.provision.admit(one)
        again = manager.step(step.sessions)
        assert again is not None
        assert again.shape == step.shape
    assert not mover.jobs
    return manager, answers


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_caches_are_bit_equal_to_the_same_schedule_with_room_for_all(kind: str) -> None:
    manager, mover = manual(looked_at(kind), small(kind), host=400)
    answers: dict[str, list[Answered]] = {}
    for key in asked(0):
        manager.open(key)
        answers[key] = []
    for number in range(ROUNDS):
        for key, answered in go_on(manager, mover, asked(number), MADE).items():
            answers[key].append(answered)
        check(manager.store)
    assert manager.store.counts.evicted > 20
    assert manager.store.counts.loaded > 10
    assert manager.residency.recomputed_tokens == 0
    unlimited, wanted = replayed(kind, manager)
    assert unlimited.store.counts.evicted == 0
    held = sum(len(one.holding) for one in manager.conversations.values())
    assert held >= 2 * manager.store.device.pages
    for key in answers:
        assert [(one.tokens, one.gaps) for one in answers[key]] == [(one.tokens, one.gaps) for one in wanted[key]]
        one, other = manager.conversations[key], unlimited.conversations[key]
        assert torch.equal(cached(manager, one), cached(unlimited, other)), key


@pytest.mark.parametrize("kind", ["full", "linear", "mixed"])
def test_where_nothing_is_kept_below_the_tokens_are_computed_again(kind: str) -> None:
    manager, mover = manual(looked_at(kind), small(kind))
    roomy, free = manual(looked_at(kind), 2000)
    for made in (manager, roomy):
        for key in asked(0):
            made.open(key)
    for number in range(ROUNDS):
        found, wanted = (go_on(*pair, asked(number), MADE) for pair in ((manager, mover), (roomy, free)))
        for key, answered in found.items():
            assert answered.tokens == wanted[key].tokens
            assert answered.gaps == pytest.approx(wanted[key].gaps, abs=1e-4)
    assert manager.residency.recomputed_tokens > 0
    assert any(reason.kind is ReasonKind.EVICTED for reason in manager.reasons())
    check(manager.store)


def test_a_damaged_page_is_computed_again_and_told(tmp_path: Path) -> None:
    manager, mover = manual(looked_at("full"), 40, disk=100, folder=tmp_path)
    roomy, free = manual(looked_at("full"), 400)
    for made in (manager, roomy):
        made.open("a")
    found, wanted = (go_on(*pair, {"a": tokens(200, 1)}, 4) for pair in ((manager, mover), (roomy, free)))
    one = manager.conversations["a"]
    assert manager.hints.demote(one).ok
    mover.run()
    assert one.context.device_bytes == 0
    store = manager.store
    assert store.disk is not None
    with open(store.disk.path, "r+b") as file:
        middle = store.table.disk[one.holding.lists[0].pages[6]]
        file.seek(-(100 - middle) * store.device.page_bytes + 5, 2)
        file.write(b"x")
    found, wanted = (go_on(*pair, {"a": tokens(5, 2)}, 4) for pair in ((manager, mover), (roomy, free)))
    assert found["a"].tokens == wanted["a"].tokens
    assert store.counts.damaged == 1
    assert manager.residency.recomputed_tokens == 203 - 6 * 16
    assert [reason for reason in manager.reasons() if reason.kind is ReasonKind.RECOMPUTED]
    check(store)
    manager.close()


def test_sessions_that_begin_alike_share_pages_and_say_the_same() -> None:
    manager, mover = manual(looked_at("full"), 200)
    common = tokens(100, 1)
    manager.open("first")
    go_on(manager, mover, {"first": common + tokens(10, 2)}, 3)
    before = manager.store.table.in_use
    manager.open("second")
    found = go_on(manager, mover, {"second": common + tokens(10, 3)}, 3)
    assert manager.provision.shared_tokens == 96
    assert manager.store.table.in_use - before == 1  # of 112 tokens the first 96 are there already
    alone, free = manual(looked_at("full"), 200)
    alone.open("second")
    assert go_on(alone, free, {"second": common + tokens(10, 3)}, 3)["second"].tokens == found["second"].tokens
    shared = manager.conversations["second"].holding.lists[0].pages[:6]
    assert manager.conversations["first"].holding.lists[0].pages[:6] == shared
    manager.close_session(manager.conversations["first"])
    check(manager.store)
    assert all(manager.store.table.refs[page] == 1 for page in shared)
    manager.close_session(manager.conversations["second"])
    assert manager.store.table.in_use == 0
    assert not manager.prefixes or not manager.prefixes.match(common)


@pytest.mark.parametrize("kind", ["full", "linear", "window", "encoder"])
def test_a_session_that_is_shared_goes_its_own_way(kind: str) -> None:
    manager, mover = manual(looked_at(kind), 300)
    one = manager.open("a")
    go_on(manager, mover, {"a": tokens(45, 1)}, 3)
    pages = manager.store.table.in_use
    manager.open("b", like=one)
    assert manager.store.table.in_use == pages
    found = go_on(manager, mover, {"a": tokens(7, 2), "b": tokens(7, 3)}, 3)
    twin, free = manual(looked_at(kind), 300)
    twin.open("a")
    go_on(twin, free, {"a": tokens(45, 1)}, 3)
    assert go_on(twin, free, {"a": tokens(7, 2)}, 3)["a"].tokens == found["a"].tokens
    assert found["b"].tokens != found["a"].tokens or found["b"].gaps != found["a"].gaps
    assert manager.store.counts.copied_on_write > 0
    check(manager.store)


def test_a_context_that_is_compacted_keeps_what_is_common() -> None:
    manager, mover = manual(looked_at("full"), 200)
    one = manager.open("a")
    go_on(manager, mover, {"a": tokens(100, 1)}, 3)
    other = tokens(100, 1)[:70] + tokens(20, 5)
    made = turn(manager, other, 3, replaces=True)
    manager.submit(one, made)
    assert one.holding.cached == 70
    run(manager, mover)
    fresh, free = manual(looked_at("full"), 200)
    fresh.open("a")
    assert go_on(fresh, free, {"a": other}, 3)["a"].tokens == made.future.result(0).tokens
    check(manager.store)


def test_changed_weights_make_caches_worthless_and_it_is_said() -> None:
    model = with_weights_of_its_own("full")
    manager, mover = manual(model, 200)
    manager.open("a")
    go_on(manager, mover, {"a": tokens(50, 1)}, 2)
    with torch.no_grad():
        model.module.model.layers[0].mlp.up_proj.weight.mul_(-1.5)  # type: ignore[union-attr,index]
    found = go_on(manager, mover, {"a": tokens(5, 2)}, 3)
    assert any(reason.kind is ReasonKind.CACHE_UNUSABLE for reason in manager.reasons())
    one = manager.conversations["a"]
    twin, free = manual(model, 200)
    twin.open("a")
    assert go_on(twin, free, {"a": tuple(one.tokens[:-3])}, 3)["a"].tokens == found["a"].tokens
    model.module.lm_head = torch.nn.Linear(64, 256, bias=False)
    assert manager.weights.changed(closely=True) is not None
    assert manager.weights.changed(closely=True) is None


def test_a_context_that_never_fits_is_refused_with_what_it_needs() -> None:
    manager, _ = manual(looked_at("full"), 10)
    one = manager.open("a")
    with pytest.raises(InfeasibleError) as caught:
        manager.submit(one, turn(manager, tokens(150, 1), 20))
    need = pages_at_most(manager.model.layout, 170, 0, 32) + 1
    assert f"{need * manager.store.device.page_bytes} bytes" in str(caught.value)
    assert not one.turns
    fits, mover = manual(looked_at("full"), need)
    fits.open("a")
    assert len(go_on(fits, mover, {"a": tokens(150, 1)}, 20)["a"].tokens) == 20


@pytest.mark.parametrize("policy", ["djinn", "lru-host"])
def test_a_step_longer_than_the_room_made_ahead_finds_room(policy: str) -> None:
    manager, mover = manual(looked_at("full"), 20, host=200, chunk=256, policy=policy_named(policy))
    for key in "abc":
        manager.open(key)
        go_on(manager, mover, {key: tokens(290, ord(key))}, 2)
    assert manager.store.counts.evicted > 0


def test_turns_wait_for_memory_in_order_and_all_are_served() -> None:
    manager, mover = manual(looked_at("full"), 14, host=200)
    for key in "abcd":
        manager.open(key)
    turns = {key: turn(manager, tokens(100, ord(key)), 10) for key in "abcd"}
    for key, made in turns.items():
        manager.submit(manager.conversations[key], made)
    manager.step()
    assert [one.admitted for one in manager.conversations.values()] == [True, False, False, False]
    run(manager, mover)
    assert all(made.future.done() for made in turns.values())
    check(manager.store)


def test_a_turn_that_is_cancelled_leaves_what_was_computed() -> None:
    manager, mover = manual(looked_at("full"), 100)
    one = manager.open("a")
    made = turn(manager, tokens(100, 1), 50)
    manager.submit(one, made)
    for _ in range(4):
        manager.step()
    made.future.cancel()
    manager.step()
    assert not one.turns
    assert len(one.tokens) == one.holding.cached + 1
    answered = go_on(manager, mover, {"a": tokens(3, 2)}, 2)
    assert len(answered["a"].tokens) == 2
    check(manager.store)


def test_a_model_that_raises_fails_the_turns_of_its_step_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    manager, mover = manual(looked_at("full"), 100, most=1)
    turns = [turn(manager, tokens(20, place), 2) for place in range(2)]
    for place, made in enumerate(turns):
        manager.submit(manager.open(f"s{place}"), made)

    def failing(*_: object) -> torch.Tensor:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr(type(manager.model), "run", failing)
        with pytest.raises(RuntimeError, match="luck"):
            manager.step()
    run(manager, mover)
    failed = [made for made in turns if made.future.exception(0) is not None]
    assert len(failed) == 1
    check(manager.store)


def test_closing_frees_everything_and_nothing_more_is_taken() -> None:
    manager, mover = manual(looked_at("linear"), 100, host=20)
    one = manager.open("a")
    made = turn(manager, tokens(50, 1), 10)
    manager.submit(one, made)
    manager.step()
    manager.close_session(one)
    manager.close_session(one)
    assert made.future.cancelled()
    assert manager.store.table.in_use == 0
    with pytest.raises(DjinnError, match="was closed"):
        manager.submit(one, turn(manager, (1,), 1))
    manager.open("a")
    with pytest.raises(DjinnError, match="already"):
        manager.open("a")
    manager.close()
    with pytest.raises(DjinnError, match="closed"):
        manager.open("b")
    mover.run()
    check(manager.store)


def test_steps_are_of_few_shapes() -> None:
    assert [tokens_of_step(left, 64, True) for left in (1, 2, 3, 63, 64, 65, 1000)] == [1, 2, 2, 32, 64, 64, 64]
    assert [tokens_of_step(left, 64, False) for left in (1, 3, 63, 65)] == [1, 3, 63, 64]
    assert bucket(0) == 0
    assert all(past <= bucket(past) <= max(16, past * 1.25 + 16) for past in range(1, 5000))
    assert len({bucket(past) for past in range(1, 100_000)}) < 64


def test_a_step_looks_at_nobody_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    manager, mover = manual(looked_at("full"), 2000)
    for key in asked(0):
        manager.open(key)
    go_on(manager, mover, asked(0), MADE)
    assert not manager.conversations.busy

    def every(*_: object) -> None:
        raise AssertionError("all sessions were looked at")

    monkeypatch.setattr(manager.conversations, "values", every)
    monkeypatch.setattr(manager.conversations, "items", every)
    one, other = (manager.conversations[key] for key in ("s0", "s1"))
    manager.hints.signal(other, "COMPUTE", None, None)
    made = turn(manager, tokens(8, 99), MADE)
    manager.submit(one, made)
    while not made.future.done():
        assert manager.step() is not None
    manager.tick()
    assert set(manager.conversations.busy) == {"s1"}, "whose turn is still expected"
