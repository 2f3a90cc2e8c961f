"""The one builder of a key across processes, and requests for other sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from djinn_fx.engines.background import _for_sizes, _OnlyBuilder
from djinn_fx.engines.base import BuildRequest, RegionGraph
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.engines.keys import EngineKey, Guards
from djinn_fx.engines.pool.jobs import BusyElsewhere
from djinn_fx.engines.store import Store
from djinn_fx.engines.tier import STORED_AS, Prepared, Tier, patience_s

KEY = EngineKey(digest="a" * 64, fields={"test": 1})


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
    return BuildRequest(worker="inductor", request={"form": FORM, "hints": [[5, True], [7, True], [9, None]], **given})


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
    monkeypatch.setattr("djinn_fx.engines.background.time.monotonic", lambda: now[0])
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
    graph = RegionGraph(
        gm=torch.fx.GraphModule({}, torch.fx.Graph()),
        structural_hash="",
        canonical=None,
        example_inputs=(),
        label="here",
        kind="inference",
    )
    prepared = Prepared(graph=graph, key=KEY)
    small, large = Guards(expression="L['t0'] < 9"), Guards(expression="9 <= L['t0']")
    assert theirs.write(prepared, {"by": "them"}, b"theirs", small) == KEY.digest
    assert ours.write(prepared, {"by": "us"}, b"ours", small) == KEY.digest
    assert ours.write(prepared, {"by": "us"}, b"ours", large) == KEY.variant(1).digest
    store = Store(tmp_path / "cache")
    found = [store.get(KEY.variant(number).digest) for number in range(3)]
    assert [one.payload if one is not None else None for one in found] == [b"theirs", b"ours", None]
