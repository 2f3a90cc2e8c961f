"""The quickest faults of ``tests.exam.worker_faults`` on one Ray: one call is lost to each at most, and never wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'djinn-fx[ray]'")

from djinn_fx.remote.workers.pool import close_all
from tests.exam.worker_faults import FAULTS, Session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A model over two workers."""
    yield Session(0)
    close_all()


@pytest.fixture(autouse=True)
def _compiled(session: Session) -> None:
    """Each fault meets calls, not the compilation that the last test left to be made again."""
    session.whole()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["half a message", "flipped", "another version"])
def test_what_is_no_frame_is_one_error_and_the_next_call_is_right(session: Session, name: str, seed: int) -> None:
    found = FAULTS[name][0](session, random.Random(seed))
    wrong = [one for one in found if one != "right"]
    assert len(wrong) == 1
    assert wrong[0].startswith("EngineError: worker:")
    assert found[-1] == "right"
    assert not session.pool.lost()


def test_a_worker_that_has_no_memory_left_says_so_and_goes_on(session: Session) -> None:
    found = FAULTS["memory full"][0](session, random.Random(0))
    assert "memory" in found[0]
    assert found[1:] == ["right", "right"]
    assert not session.pool.lost()


def test_a_worker_that_stops_for_a_while_is_waited_for(session: Session) -> None:
    assert FAULTS["frozen a while"][0](session, random.Random(0)) == ["right", "right"]


def test_where_ray_itself_ends_what_is_left_is_this_process(session: Session) -> None:
    pool = session.pool
    assert FAULTS["raylet killed"][0](session, random.Random(0)) == ["right"] * 4
    assert pool.lost() == set(pool.workers)
