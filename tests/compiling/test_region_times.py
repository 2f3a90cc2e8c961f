"""Measured times and lessons on disk: found again, only for the same work here, and never a cause of failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.compiling import region_times
from djinn_fx.compiling.region_times import Lessons, RegionTimes, lessons
from djinn_fx.settings.table import Settings
from djinn_fx.store.store import Store

HASH = "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made, reason = Store.open(tmp_path / "cache", 10**9)
    assert made is not None, reason
    return made


def times(store: Store | None, **options: Any) -> RegionTimes:
    return RegionTimes(store, Settings(**options))


def test_what_is_noted_is_known(store: Store) -> None:
    assert times(store).time(HASH, "eager") is None
    times(store).note(HASH, "eager", "layer", [3.0, 1.0, 2.0])
    known = times(store).time(HASH, "eager")
    assert known is not None
    assert (known.time_s, known.calls) == (2.0, 3)
    assert known.made


def test_the_latest_counts(store: Store) -> None:
    for second in (1.0, 4.0):
        times(store).note(HASH, "eager", "layer", [second])
    known = times(store).time(HASH, "eager")
    assert known is not None
    assert known.time_s == 4.0


def test_other_work_engines_and_settings_have_other_times(store: Store) -> None:
    times(store).note(HASH, "eager", "layer", [1.0])
    assert times(store).time("b" * 64, "eager") is None
    assert times(store).time(HASH, "packed") is None
    assert times(store, weights="input").time(HASH, "eager") is None


def test_other_threads_have_other_times(store: Store) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        times(store).note(HASH, "eager", "layer", [1.0])
        torch.set_num_threads(2)
        assert times(store).time(HASH, "eager") is None
    finally:
        torch.set_num_threads(before)


def test_work_without_a_hash_is_not_kept(store: Store) -> None:
    times(store).note("", "eager", "layer", [1.0])
    assert not list(store.entries())


@pytest.mark.parametrize(
    "wrong", [{"time_s": "x"}, {"time_s": -1.0}, {"calls": None}, {"made_by": "other versions"}, {"made": ...}]
)
def test_a_row_that_is_wrong_is_no_time(store: Store, wrong: dict[str, Any]) -> None:
    known = times(store)
    known.note(HASH, "eager", "layer", [1.0])
    (entry,) = store.entries()
    header = store.get(entry.key).header  # type: ignore[union-attr]
    row = {**header["engines"]["eager"], **wrong}  # type: ignore[index, call-overload]
    row = {name: value for name, value in row.items() if value is not ...}
    store.put(entry.key, {**header, "engines": {"eager": row}}, b"")
    assert known.time(HASH, "eager") is None
    store.put(entry.key, {**header, "engines": 3}, b"")
    assert known.time(HASH, "eager") is None


def test_engines_do_not_drive_each_other_out(store: Store) -> None:
    times(store).note(HASH, "eager", "layer", [1.0])
    times(store).note(HASH, "packed", "layer", [2.0])
    assert [times(store).time(HASH, name).time_s for name in ("eager", "packed")] == [1.0, 2.0]  # type: ignore[union-attr]


def test_no_library_is_imported_to_find_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(name: str, settings: Settings) -> None:
        raise AssertionError(f"{name} was made")

    monkeypatch.setattr(region_times, "engine", asked)
    assert times(store).time(HASH, "inductor") is None


def test_without_a_store_nothing_is_known() -> None:
    known = times(None)
    known.note(HASH, "eager", "layer", [1.0])
    assert known.time(HASH, "eager") is None


def test_lessons_outlive_the_process(store: Store) -> None:
    first = Lessons(store)
    first.about("model").observe("eager", {"matmul": 1.0}, 1.0, 2.0)
    first.keep("model")
    again = Lessons(store)
    assert again.about("model").to_json() == first.about("model").to_json() != []
    assert again.about("other").to_json() == []


def test_damaged_lessons_are_none(store: Store) -> None:
    known = Lessons(store)
    store.put(known._key("model"), {"schema": 1, "what": "lessons", "corrections": [{"engine": 1}]}, b"")
    assert known.about("model").to_json() == []


def test_graphs_of_one_store_share_their_lessons(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_times, "_LESSONS", {})
    assert lessons(store) is lessons(store)
    assert lessons(None) is not lessons(store)
    assert region_times.lessons(store).about("m") is region_times.lessons(store).about("m")
