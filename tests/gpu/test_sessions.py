"""Sessions on a CUDA device: the same tokens and bytes as with room for all, pages moved beside computing."""

from __future__ import annotations

import pytest
import torch

import djinn_fx
from djinn_fx.sessions.pools.checks import check
from djinn_fx.sessions.session import open_sessions
from tests.sessions.models import build, tokens

pytestmark = pytest.mark.gpu

PAGE = 16 * 2 * 2 * 2 * 16 * 4


@pytest.mark.parametrize("kind", ["full", "window", "linear"])
def test_tokens_are_those_with_room_for_all(kind: str) -> None:
    answers = []
    for device in (40 * PAGE, 2000 * PAGE):
        model = build(kind).cuda()
        manager = open_sessions(model, device=device, host=2000 * PAGE, batch=1)
        assert manager.store.host is not None
        assert manager.store.host.memory.is_pinned()
        sessions = [djinn_fx.session(model, f"s{place}") for place in range(8)]
        found = []
        for number in range(3):
            turns = [one.submit(tokens(60, 10 * number + place), 6) for place, one in enumerate(sessions)]
            found.append([turn.future.result(120).tokens for turn in turns])
        answers.append(found)
        with manager.lock:
            check(manager.store)
        manager.close()
    assert answers[0] == answers[1]  # batches of one: every session's steps are the same in both


def test_a_page_that_was_just_written_is_copied_as_written() -> None:
    model = build("full").cuda()
    manager = open_sessions(model, device=40 * PAGE, host=400 * PAGE)
    with djinn_fx.session(model, "a") as one:
        for number in range(20):
            one.generate(tokens(20, number), max_new_tokens=1)
            before = manager.store.device.memory[manager.store.table.device[one._one.holding.lists[0].pages[0]]].cpu()
            assert one.demote().ok
            assert one.prefetch().ok
        torch.cuda.synchronize()
        while not manager.residency.resident(one._one):
            with manager.lock:
                manager.tick()
        after = manager.store.device.memory[manager.store.table.device[one._one.holding.lists[0].pages[0]]].cpu()
        assert torch.equal(before, after)
    manager.close()
