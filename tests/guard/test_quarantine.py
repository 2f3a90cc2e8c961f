"""An engine that was wrong is out of use for that region: here, and on disk for other processes."""

from __future__ import annotations

from pathlib import Path

from djinn_fx.engines.keys import EngineKey
from djinn_fx.guard.quarantine import Quarantine
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.store.store import Store

KEY = EngineKey(digest="a" * 64, fields={"engine": "bad"})
OTHER = EngineKey(digest="b" * 64, fields={"engine": "good"})
REASON = Reason(kind=ReasonKind.QUARANTINED, detail="bad: result 0 is zero throughout", node="region")


def test_on_disk_for_other_processes_and_its_artefacts_are_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    for key in (KEY, KEY.variant(1), KEY.variant(3), OTHER):
        assert store.put(key.digest, {"engine": "bad"}, b"code")
    Quarantine().put(KEY, REASON, store)
    assert Quarantine().get(KEY, Store(tmp_path / "cache")) == REASON
    assert [entry.key for entry in store.entries()] == [OTHER.digest]
    assert Quarantine().get(OTHER, store) is None


def test_in_this_process_also_without_a_store(tmp_path: Path) -> None:
    one = Quarantine()
    assert one.get(KEY, None) is None
    one.put(KEY, REASON, None)
    assert one.get(KEY, None) == REASON
    assert one.get(KEY, Store(tmp_path / "cache")) == REASON
    one.clear()
    assert one.get(KEY, None) is None


def test_a_disk_that_refuses_costs_only_the_memory_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file where the folder should be")
    one = Quarantine()
    one.put(KEY, REASON, store)
    assert one.get(KEY, None) == REASON
