"""The one builder of a key across processes, and requests for other sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.dispatch import background
from djinn_fx.dispatch.background import BackgroundBuild, _for_sizes, _OnlyBuilder
from djinn_fx.dispatch.contests.pays import Budget
from djinn_fx.dispatch.entrant import State
from djinn_fx.dispatch.lazy import LazyRegion, Policy
from djinn_fx.dispatch.memory import Loaded
from djinn_fx.dispatch.tier import STORED_AS, Prepared, Tier, patience_s
from djinn_fx.engines.base import BuildRequest, RegionGraph
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.engines.keys import EngineKey, Guards
from djinn_fx.errors import EngineError
from djinn_fx.pool.jobs import BuildDone, BuildJob, BuildOutcome, BusyElsewhere
from djinn_fx.pool.tickets import Ticket
from djinn_fx.reasons import ReasonKind
from djinn_fx.store.store import Store
from tests.forking import in_fork

KEY = EngineKey(digest="a" * 64, fields={"test": 1})
GRAPH = RegionGraph(
    gm=torch.fx.GraphModule({}, torch.fx.Graph()),
    structural_hash="",
    canonical=None,
    example_inputs=(),
    label="here",
    kind="inference",
)


def everything(guards: Guards) -> bool:
    return True


def test_who_finds_the_key_locked_comes_back_later(tmp_path: Path) -> None:
    ours, theirs = (Tier(EagerEngine(), Store(tmp_path / "cache")) for _ in range(2))
    guard = _OnlyBuilder(ours, KEY, everything)
    with theirs.lock(KEY, 1.0) as held:
        assert held
        with pytest.raises(BusyElsewhere), guard():
            pass
    with guard() as found:
        assert found is None, "the lock is free, and nothing was built"


def test_what_another_process_built_meanwhile_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    assert store.put(KEY.digest, {"guards": None, "engine": "eager"}, b"artefact")
    with _OnlyBuilder(Tier(EagerEngine(), Store(tmp_path / "cache")), KEY, everything)() as found:
        assert found is not None
        assert (found.payload, found.header["engine"]) == (b"artefact", "eager")


def test_an_artefact_for_other_sizes_is_not_taken(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    assert store.put(KEY.digest, {"guards": "L['t0'] == 3"}, b"artefact")
    tier = Tier(EagerEngine(), Store(tmp_path / "cache"))
    for size, there in ((3, True), (4, False)):
        with _OnlyBuilder(tier, KEY, lambda guards, size=size: guards.accept([size]))() as found:  # type: ignore[misc]
            assert (found is not None) is there


def test_a_folder_that_cannot_hold_locks_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / "locks").write_text("not a directory")
    store, _ = Store.open(tmp_path / "cache")
    if store is not None:
        with _OnlyBuilder(Tier(EagerEngine(), store), KEY, everything)() as found:
            assert found is None


def test_without_a_cache_nobody_is_waited_for() -> None:
    with _OnlyBuilder(Tier(EagerEngine(), None), KEY, everything)() as found:
        assert found is None


def test_an_entry_is_told_by_its_own_key_also_if_it_is_a_later_one_for_other_sizes(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    for number, size in enumerate((3, 4)):
        assert store.put(KEY.variant(number).digest, {"guards": f"L['t0'] == {size}"}, b"artefact %d" % size)
    tier = Tier(EagerEngine(), Store(tmp_path / "cache"))
    found = tier.stored_result(KEY, lambda guards: guards.accept([4]))
    assert found is not None
    assert (found.payload, found.header[STORED_AS]) == (b"artefact 4", KEY.variant(1).digest)


FORM = {"inputs": [[["torch.float32", ["k0", "k1", 8], ["8*k1", 8, 1], [0], "cpu"], [0]], [["SymInt", "k2"], []]]}


def request(**given: object) -> BuildRequest:
    asked = {"form": FORM, "hints": [[5, True], [7, True], [9, None]]}
    return BuildRequest(worker="inductor-region", request=asked, **given)


def test_a_request_for_other_sizes() -> None:
    made = _for_sizes(request(), {(0, 0): 50, (0, 1): 70, (1, None): 90})
    assert made is not None
    assert made.request["hints"] == [[50, True], [70, True], [90, None]]
    assert made.request["form"] is FORM


def test_a_size_that_is_not_told_is_not_guessed() -> None:
    assert _for_sizes(request(), {(0, 0): 50, (0, 1): 70}) is None


def test_a_builder_without_examples_has_no_other_sizes() -> None:
    assert _for_sizes(BuildRequest(worker="tensorrt-plan", request={"network": {}}), {(0, 0): 50}) is None


# Others that hold the lock and do not go on


def test_who_holds_the_lock_is_waited_for_as_long_as_building_takes_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("djinn_fx.dispatch.background.time.monotonic", lambda: now[0])
    ours, theirs = (Tier(EagerEngine(), Store(tmp_path / "cache")) for _ in range(2))
    guard = _OnlyBuilder(ours, KEY, everything, predicted_s=20.0)
    now[0] = 1000.0  # in the queue meanwhile
    with theirs.lock(KEY, 1.0):
        for seconds in (0.0, 79.0):
            now[0] = 1000.0 + seconds
            with pytest.raises(BusyElsewhere), guard():
                pass
        now[0] = 1081.0
        with guard() as found:
            assert found is None, "it is built all the same"


@pytest.mark.parametrize(("predicted_s", "patience"), [(0.1, 10.0), (5.0, 20.0), (1000.0, 600.0)])
def test_patience(predicted_s: float, patience: float) -> None:
    assert patience_s(predicted_s) == patience


def test_what_somebody_else_wrote_meanwhile_is_left_alone(tmp_path: Path) -> None:
    ours, theirs = (Tier(EagerEngine(), Store(tmp_path / "cache")) for _ in range(2))
    prepared = Prepared(graph=GRAPH, key=KEY)
    small, large = Guards(expression="L['t0'] < 9"), Guards(expression="9 <= L['t0']")
    assert theirs.write(prepared, {"by": "them"}, b"theirs", small) == KEY.digest
    assert ours.write(prepared, {"by": "us"}, b"ours", small) == KEY.digest
    assert ours.write(prepared, {"by": "us"}, b"ours", large) == KEY.variant(1).digest
    store = Store(tmp_path / "cache")
    found = [store.get(KEY.variant(number).digest) for number in range(3)]
    assert [one.payload if one is not None else None for one in found] == [b"theirs", b"ours", None]


# Threads that are not there, and outcomes nobody foresaw


class Pool:
    """A build pool in which nothing is ever built."""

    def __init__(self) -> None:
        self.done: list[Callable[[BuildOutcome], None]] = []

    def submit(self, job: BuildJob, *, on_start: Any, on_done: Callable[[BuildOutcome], None]) -> Ticket:
        self.done.append(on_done)
        return Ticket(job.key, on_start, on_done)

    def cancel(self, ticket: Ticket) -> None:
        ticket.cancelled = True


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    made = Pool()
    monkeypatch.setattr(background, "shared_pool", lambda **_: made)
    return made


def lazy_region(checked: Callable[[Loaded], Loaded] | None = None) -> tuple[LazyRegion, BackgroundBuild]:
    policy = Policy(at_once=True, budget=Budget(60.0))
    region = LazyRegion(label="here", eager=lambda args: args, ops=10, repeats=1, policy=policy)
    prepared = Prepared(graph=GRAPH, key=KEY, request=request())
    build = BackgroundBuild(region, Tier(EagerEngine(), None), prepared, (), policy.budget, False, checked)
    region.build([build])
    return region, build


def test_in_a_forked_process_it_is_built_anew(pool: Pool) -> None:
    region, build = lazy_region()
    left_s = build._budget.left_s
    assert (len(pool.done), build.state, region.pending) == (1, State.QUEUED, True)

    def anew() -> bool:
        cold = build.state is State.COLD and not region.pending and build._budget.left_s == 60.0
        region([])
        return cold and len(pool.done) == 2 and build.state is State.QUEUED and build._budget.left_s == left_s

    assert in_fork(anew)


@pytest.mark.parametrize("error", [ValueError("a fault of ours"), MemoryError(), EngineError("said so")])
def test_what_cannot_be_adopted_is_given_up_with_a_reason(pool: Pool, error: Exception) -> None:
    def fails(_: Loaded) -> Loaded:
        raise error

    region, build = lazy_region(fails)
    pool.done[0](BuildDone(header={"guards": None}, payload=b""))
    assert (build.state, region.pending, region.engine) == (State.FAILED, False, "eager")
    assert build.reason is not None
    assert build.reason.kind is ReasonKind.FALLBACK
    assert region([1]) == [1]
