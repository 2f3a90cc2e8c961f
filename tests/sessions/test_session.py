"""The interface: sessions from sync code, threads and async; hints; verbs."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import djinn_fx
from djinn_fx.errors import DjinnError, SettingsError
from djinn_fx.sessions.hints import MAX_ESTIMATE_S, MAX_LEASE_S
from djinn_fx.sessions.manager import SessionManager
from djinn_fx.sessions.outcome import Answer
from djinn_fx.sessions.policy.state import Phase
from djinn_fx.sessions.pools.checks import check
from djinn_fx.sessions.session import open_sessions
from tests.sessions.models import build, tokens

PAGE = 16 * 2 * 2 * 2 * 16 * 4


@pytest.fixture
def model() -> Iterator[torch.nn.Module]:
    made = build("full")
    manager = open_sessions(made, device=40 * PAGE, host=200 * PAGE)
    yield made
    with manager.lock:
        check(manager.store)
    manager.close()


def manager_of(one: djinn_fx.sessions.session.Session) -> SessionManager:
    return one.manager


def settle(one: Any) -> None:
    """Have what was said heeded."""
    one.manager.tick()


def test_a_session_goes_on_where_it_was(model: torch.nn.Module) -> None:
    with djinn_fx.session(model, "a", tenant="t", priority=3) as a:
        first = a.generate(torch.tensor([tokens(50, 1)]), max_new_tokens=5)
        assert first.shape == (5,)
        a.generate(list(tokens(5, 2)), max_new_tokens=0)
        more = a.generate([], max_new_tokens=3)
        assert a.tokens == [*tokens(50, 1), *first.tolist(), *tokens(5, 2), *more.tolist()]
        assert a.answered is not None
        assert len(a.answered.gaps) == 3
        assert 0 <= a.answered.first_s <= a.answered.total_s
    with djinn_fx.session(model, "b") as b:
        assert b.generate(a.tokens[:-3], max_new_tokens=3).tolist() == more.tolist()


def test_an_end_token_ends_and_chance_is_the_turns_own(model: torch.nn.Module) -> None:
    with djinn_fx.session(model, "a") as a, djinn_fx.session(model, "b") as b:
        three = a.generate(tokens(20, 1), max_new_tokens=3).tolist()
        assert (
            b.generate(tokens(20, 1), max_new_tokens=9, eos_token_id=three[1]).tolist()
            == three[: three.index(three[1]) + 1]
        )
    made = []
    for others in (0, 3):
        with djinn_fx.session(model, "c") as c:
            beside = [djinn_fx.session(model, f"o{place}") for place in range(others)]
            turns = [one.submit(tokens(30, place), max_new_tokens=8) for place, one in enumerate(beside)]
            made.append(c.generate(tokens(20, 1), max_new_tokens=8, temperature=2.0, seed=5).tolist())
            for turn, one in zip(turns, beside, strict=True):
                turn.future.result(30)
                one.close()
    assert made[0] == made[1]


def test_bad_arguments_are_one_clear_error(model: torch.nn.Module) -> None:
    with djinn_fx.session(model, "a") as a:
        for words, match in (
            ({"input_ids": []}, "one token at least"),
            ({"input_ids": [-1]}, "whole numbers"),
            ({"input_ids": ["x"]}, "whole numbers"),
            ({"input_ids": torch.zeros(2, 3, dtype=torch.long)}, "2 rows"),
            ({"input_ids": [1], "max_new_tokens": -1}, "max_new_tokens"),
            ({"input_ids": [1], "encoder_input_ids": [1]}, "no encoder"),
        ):
            with pytest.raises(SettingsError, match=match):
                a.generate(**words)
        with pytest.raises(DjinnError, match="already"):
            djinn_fx.session(model, "a")
        with pytest.raises(SettingsError, match="id is a text"):
            djinn_fx.session(model, "")
    with pytest.raises(DjinnError, match="was closed"):
        a.generate([1])
    with pytest.raises(DjinnError, match="already"):
        open_sessions(model)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"device": 10}, "holds no page"),
        ({"device": -1}, "pool"),
        ({"chunk": 3}, "power of two"),
        ({"cache": "int4"}, "int8"),
        ({"quotas": {"t": 2.0}}, "quota"),
        ({"nonsense": 1}, "nonsense"),
        ({"page_tokens": 0}, "at least one"),
        ({"link": 0.0}, "positive rate"),
        ({"link": math.nan}, "positive rate"),
    ],
)
def test_bad_options_are_one_clear_error(options: dict[str, Any], match: str) -> None:
    with pytest.raises(DjinnError, match=match):
        open_sessions(build("full"), **options)


def test_a_signal_is_taken_from_anywhere(model: torch.nn.Module) -> None:
    found = []
    with djinn_fx.session(model, "a") as a:
        a.generate(tokens(20, 1), max_new_tokens=1)
        found.append(djinn_fx.signal_phase("IO_WAIT", estimated_resume_ms=500, tool="grep"))
        settle(a)
        assert a._one.context.tool == "grep"
        assert a._one.context.estimate_s == pytest.approx(0.5, abs=0.45)

        def elsewhere() -> None:
            found.append(djinn_fx.signal_phase("COMPUTE"))  # no session is current in a new thread
            found.append(djinn_fx.signal_phase("COMPUTE", "a"))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

        async def within() -> None:
            found.append(djinn_fx.signal_phase("IO_WAIT", estimated_resume_ms=10))
            found.append(await asyncio.to_thread(djinn_fx.signal_phase, "COMPUTE"))

        asyncio.run(within())
    assert [one.answer for one in found] == [
        Answer.ACCEPTED, Answer.MISSING, Answer.ACCEPTED, Answer.ACCEPTED, Answer.ACCEPTED,
    ]  # fmt: skip
    assert djinn_fx.signal_phase("IO_WAIT").answer is Answer.MISSING
    assert djinn_fx.signal_phase("IO_WAIT", "a").answer is Answer.MISSING


@pytest.mark.parametrize("estimate", [-1, math.nan, "soon", float("-inf")])
def test_an_estimate_that_makes_no_sense_is_rejected(model: torch.nn.Module, estimate: Any) -> None:
    with djinn_fx.session(model, "a") as a:
        said = djinn_fx.signal_phase("IO_WAIT", estimated_resume_ms=estimate)
        assert said.answer is Answer.REJECTED
        assert not said.ok
        settle(a)
        assert a._one.context.estimate_s is None
    assert said.to_json()["session"] == "a"


def test_signals_late_double_and_contradictory(model: torch.nn.Module) -> None:
    with djinn_fx.session(model, "a") as a:
        assert a.signal_phase("THINK").answer is Answer.REJECTED
        a.generate(tokens(20, 1), max_new_tokens=1)
        for _ in range(2):
            assert a.signal_phase("IO_WAIT", math.inf).answer is Answer.CLIPPED
        settle(a)
        assert a._one.context.estimate_s == pytest.approx(MAX_ESTIMATE_S, rel=1e-3)
        assert a.signal_phase("COMPUTE").answer is Answer.ACCEPTED
        assert a.signal_phase("IO_WAIT", 100).answer is Answer.ACCEPTED
        settle(a)
        assert a._one.context.phase is Phase.WAITING
        with a.manager.lock:  # a turn under way: what is said of the wait behind it counts from its end on
            turn = a.submit(tokens(5, 2), max_new_tokens=1)
            assert a.signal_phase("IO_WAIT", 7000, "later").answer is Answer.DEFERRED
        turn.future.result(30)
        settle(a)
        assert a._one.context.tool == "later"


def test_sessions_of_threads_and_of_tasks_are_answered_as_alone(model: torch.nn.Module) -> None:
    def alone(seed: int) -> list[int]:
        with djinn_fx.session(model, f"alone{seed}") as one:
            return one.generate(tokens(60, seed), max_new_tokens=6).tolist()

    wanted = [alone(seed) for seed in range(8)]
    found: dict[int, list[int]] = {}

    def in_thread(seed: int) -> None:
        with djinn_fx.session(model, f"thread{seed}") as one:
            found[seed] = one.generate(tokens(60, seed), max_new_tokens=6).tolist()

    threads = [threading.Thread(target=in_thread, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[seed] for seed in range(8)] == wanted

    async def task(seed: int) -> list[int]:
        with djinn_fx.session(model, f"task{seed}") as one:
            return (await one.generate_async(tokens(60, seed), max_new_tokens=6)).tolist()

    async def together() -> list[list[int]]:
        return await asyncio.gather(*map(task, range(8)))

    assert asyncio.run(together()) == wanted


def test_a_task_that_is_cancelled_cancels_its_turn(model: torch.nn.Module) -> None:
    async def begin() -> None:
        with djinn_fx.session(model, "a") as a:
            task = asyncio.create_task(a.generate_async(tokens(60, 1), max_new_tokens=400))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            settle(a)
            assert not a._one.turns
            assert (await a.generate_async(tokens(3, 1), max_new_tokens=2)).shape == (2,)

    asyncio.run(begin())


def test_what_is_settled_beside_a_step_waits_for_it(model: torch.nn.Module) -> None:
    """A turn that is cancelled in the middle of a step: the step counts its tokens, then they are taken back."""
    with djinn_fx.session(model, "a") as a:
        manager, entered, go_on = a.manager, threading.Event(), threading.Event()

        def hold(module: torch.nn.Module, arguments: Any) -> None:
            entered.set()
            assert go_on.wait(30)

        with model.register_forward_pre_hook(hold):
            turn = a.submit(tokens(60, 1), max_new_tokens=400)
            assert entered.wait(30)
            turn.future.cancel()
            other = threading.Thread(target=settle, args=(a,))
            other.start()
            other.join(0.05)
            assert len(a._one.turns) == 1
            go_on.set()
            other.join(30)
        assert not a._one.turns
        assert a._one.holding.cached <= len(a.tokens)
        assert a.generate(tokens(3, 1), max_new_tokens=2).shape == (2,)
        assert manager.conversations["a"].holding.cached == len(a.tokens) - 1


def test_closing_while_it_generates_is_told_to_who_waits(model: torch.nn.Module) -> None:
    a = djinn_fx.session(model, "a")
    with a.manager.lock:
        turn = a.submit(tokens(60, 1), max_new_tokens=400)
        a.close()
    assert turn.future.cancelled()
    assert a.manager.conversations == {}


def test_verbs_answer_what_they_did(model: torch.nn.Module) -> None:
    with djinn_fx.session(model, "a") as a, djinn_fx.session(model, "b") as b:
        a.generate(tokens(100, 1), max_new_tokens=1)
        assert a.demote().answer is Answer.ACCEPTED
        while a._one.context.device_bytes or a._one.moving:
            settle(a)
        assert a._one.context.host_bytes == 7 * PAGE
        assert a.prefetch().answer is Answer.ACCEPTED
        while a._one.context.device_bytes < 7 * PAGE:
            settle(a)
        assert a.prefetch().answer is Answer.ACCEPTED
        assert a.pin(5).answer is Answer.ACCEPTED
        assert not a._one.context.movable(a.manager.clock())
        assert a.pin(2 * MAX_LEASE_S).answer is Answer.CLIPPED
        assert a.pin(0).answer is Answer.ACCEPTED
        b.generate(tokens(400, 2), max_new_tokens=1)
        assert b.pin(5).answer is Answer.REJECTED  # more than the half that may be pinned
        assert a.retain(60, 5).answer is Answer.ACCEPTED
        assert a._one.context.priority == 5
        assert a.retain(1e9, 1000).answer is Answer.CLIPPED
        for bad in (-1, math.nan):
            assert a.retain(bad).answer is Answer.REJECTED
            assert a.pin(bad).answer is Answer.REJECTED
        with a.share("c") as c:
            assert c.tokens == a.tokens
            assert c.generate(tokens(4, 3), max_new_tokens=2).shape == (2,)
        assert a.release().answer is Answer.ACCEPTED
        assert a._one.holding.cached == 0
        with a.manager.lock:
            turn = a.submit(tokens(4, 4), max_new_tokens=1)
            assert a.release().answer is Answer.DEFERRED
            assert a.demote().answer is Answer.REJECTED
            with pytest.raises(DjinnError, match="busy"):
                a.share("d")
        turn.future.result(30)
        settle(a)
        assert not len(a._one.holding)
    for said in (a.retain(1), a.demote(), a.prefetch(), a.pin(1), a.release()):
        assert said.answer is Answer.MISSING


def test_without_a_pool_below_a_demotion_is_rejected() -> None:
    made = build("full")
    manager = open_sessions(made, device=40 * PAGE, host=0)
    with djinn_fx.session(made, "a") as a:
        a.generate(tokens(20, 1), max_new_tokens=1)
        assert a.demote().answer is Answer.REJECTED
    manager.close()


def test_what_is_retained_is_not_dropped_while_others_can_be() -> None:
    made = build("full")
    manager = open_sessions(made, device=20 * PAGE, host=0, threaded=False)
    sessions = {key: djinn_fx.session(made, key) for key in "abc"}

    def go_on(key: str) -> None:
        turn = sessions[key].submit(tokens(100, ord(key)), max_new_tokens=1)
        while not turn.future.done():
            manager.step()

    go_on("a")
    assert sessions["a"].retain(1000).answer is Answer.ACCEPTED
    go_on("b")
    go_on("c")
    assert sessions["a"]._one.holding.cached == 100
    assert sessions["b"]._one.holding.cached < 100
    for one in sessions.values():
        one.close()
    manager.close()


def test_status_tells_of_pools_sessions_and_reasons(model: torch.nn.Module) -> None:
    with djinn_fx.session(model, "a", tenant="t") as a, djinn_fx.session(model, "b") as b:
        a.generate(tokens(300, 1), max_new_tokens=1)
        b.generate(tokens(500, 2), max_new_tokens=1)
        (status,) = djinn_fx.session_status()
    assert status.model == "LlamaForCausalLM"
    assert [pool.tier for pool in status.pools] == ["device", "host"]
    assert status.pools[0].nbytes == 40 * PAGE
    assert [(one.id, one.tenant, one.tokens, one.turns) for one in status.sessions] == [
        ("a", "t", 301, 1), ("b", "", 501, 1),
    ]  # fmt: skip
    assert status.counts["evicted"] > 0
    assert any(reason.node == "a" for reason in status.reasons)
    assert status.to_json()["alive"] == 2
