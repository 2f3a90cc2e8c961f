"""The disk cache in one process: what it keeps, what it refuses, and that nothing on disk makes it raise."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from djinn_fx.errors import StoreError
from djinn_fx.files.signing import signer
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.store import files as store_files
from djinn_fx.store import format as store_format
from djinn_fx.store.format import PREFIX_BYTES
from djinn_fx.store.store import Store, default_cache_dir

HEADER = {"schema": 1, "label": "layer", "fields": {"phase": "decode", "flags": ["a"]}, "odd": [None, True, 1.5, "é"]}
PAYLOAD = bytes(range(256)) * 4
WHY = Reason(kind=ReasonKind.ENGINE_REFUSED, detail="no such op", node="add_1")


def key(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def use_times(store: Store, **seconds: int) -> None:
    """Set when entries were last used: clocks of file systems are too coarse to rely on the order of calls."""
    for name, second in seconds.items():
        os.utime(store.entry_path(key(int(name[1:]))), (second, second))


def kinds(store: Store) -> list[ReasonKind]:
    return [reason.kind for reason in store.reasons]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Entries


@pytest.mark.parametrize("payload", [b"", PAYLOAD], ids=["empty", "bytes"])
def test_an_entry_comes_back_as_it_was_put(store: Store, payload: bytes) -> None:
    assert store.get(key(1)) is None
    assert store.put(key(1), HEADER, payload)
    again = Store(store.root).get(key(1))
    assert again is not None
    assert again.header == HEADER
    assert again.payload == payload
    assert store.get(key(2)) is None
    assert (store.counters.hits, store.counters.misses) == (0, 2)


def test_an_entry_is_replaced_by_the_next_of_its_key(store: Store) -> None:
    store.put(key(1), HEADER, b"old and longer")
    store.put(key(1), HEADER, b"new")
    found = store.get(key(1))
    assert found is not None
    assert found.payload == b"new"
    assert len(store.entries()) == 1


def test_opening_a_store_and_looking_into_it_creates_nothing(store: Store) -> None:
    assert (store.get(key(1)), store.entries(), store.verify(), store.clear()) == (None, [], [], 0)
    assert not store.root.exists()


def test_everything_on_disk_is_the_users_only(store: Store) -> None:
    old = os.umask(0)
    try:
        store.put(key(1), HEADER, PAYLOAD)
        store.put_negative(key(2), WHY, 60)
        store.record_miss(key(3), {})
        with store.lock(key(4), 1):
            pass
    finally:
        os.umask(old)
    paths = [store.root, *store.root.rglob("*")]
    assert {mode(path) for path in paths if path.is_dir()} == {0o700}
    assert [mode(path) for path in paths if path.is_file()] == [0o600] * 4


def test_a_key_that_is_a_path_is_refused(store: Store) -> None:
    for bad in ("../" + key(1), key(1)[1:], key(1).replace("1", "G"), key(1) + "\n"):
        with pytest.raises(StoreError):
            store.get(bad)
        with pytest.raises(StoreError), store.lock(bad, 0):
            pass


def test_a_header_that_is_not_json_is_refused_with_a_reason(store: Store) -> None:
    assert not store.put(key(1), {"odd": object()}, b"")
    assert kinds(store) == [ReasonKind.UNCACHEABLE]
    assert store.counters.write_failures == 1
    assert not store.root.exists()


@pytest.mark.parametrize("which", ["MAX_HEADER_BYTES", "MAX_PAYLOAD_BYTES"])
def test_sizes_are_bounded_on_both_ways(store: Store, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    monkeypatch.setattr(store_format, which, 10)
    assert not store.put(key(2), HEADER, PAYLOAD)
    assert kinds(store) == [ReasonKind.UNCACHEABLE]
    assert store.get(key(1)) is None, "written by someone with other bounds"
    assert store.counters.corrupt == 1


# Damage


def flip(position: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "magic": flip(0),
    "schema": flip(8),
    "header length": flip(12),
    "payload length": flip(16),
    "payload length, high byte": flip(23),
    "checksum": flip(PREFIX_BYTES - 1),
    "header, first byte": flip(PREFIX_BYTES),
    "header, inside a string": flip(PREFIX_BYTES + 12),
    "payload, first byte": flip(-len(PAYLOAD)),
    "payload, last byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "empty": lambda data: b"",
    "cut in the prefix": lambda data: data[: PREFIX_BYTES - 1],
    "cut after the prefix": lambda data: data[:PREFIX_BYTES],
    "cut in the payload": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "somebody else's": lambda data: b"\x80\x04pickle" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_counted_deleted_and_rebuilt(store: Store, damage: Callable[[bytes], bytes]) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    path = store.entry_path(key(1))
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    assert [name for name, _ in store.verify()] == [key(1)]
    assert path.exists(), "verify deletes nothing unless asked to"

    assert store.get(key(1)) is None
    assert not path.exists()
    assert (store.counters.corrupt, store.counters.misses) == (1, 1)
    assert kinds(store) == [ReasonKind.CACHE_MISS]
    assert store.put(key(1), HEADER, PAYLOAD)
    assert store.get(key(1)) is not None


def test_an_entry_copied_under_another_key_is_not_taken_for_it(store: Store) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    shutil.copy(store.entry_path(key(1)), store.entry_path(key(2)))
    assert store.get(key(2)) is None
    assert store.counters.corrupt == 1
    assert store.get(key(1)) is not None


def test_an_entry_of_another_schema_is_rebuilt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store_format, "SCHEMA_VERSION", store_format.SCHEMA_VERSION + 1)
        store.put(key(1), HEADER, PAYLOAD)
        assert store.get(key(1)) is not None
    assert store.get(key(1)) is None
    assert store.counters.corrupt == 1


def test_a_header_nested_too_deep_is_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    monkeypatch.setattr(json, "dumps", lambda *_, **__: deep.decode())
    assert store.put(key(1), {}, b"")
    assert store.get(key(1)) is None
    assert store.counters.corrupt == 1


def test_a_link_in_place_of_an_entry_is_not_followed(store: Store, tmp_path: Path) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    elsewhere = tmp_path / "elsewhere"
    store.entry_path(key(1)).rename(elsewhere)
    store.entry_path(key(1)).symlink_to(elsewhere)
    assert store.get(key(1)) is None
    assert store.counters.corrupt == 1
    assert elsewhere.exists()
    assert not store.entry_path(key(1)).is_symlink()


def test_a_pipe_in_place_of_an_entry_does_not_block(store: Store) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    store.entry_path(key(1)).unlink()
    os.mkfifo(store.entry_path(key(1)))
    assert store.get(key(1)) is None
    assert store.counters.corrupt == 1


def test_another_users_entry_is_not_used(store: Store) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    store.put(key(1), HEADER, PAYLOAD)
    os.chown(store.entry_path(key(1)), 12345, -1)
    assert store.get(key(1)) is None
    assert store.counters.corrupt == 1


def test_verify_removes_the_damaged_and_keeps_what_is_not_ours(store: Store) -> None:
    for number in (1, 2):
        store.put(key(number), HEADER, PAYLOAD)
    store.entry_path(key(1)).write_bytes(b"short")
    (stray := store.root / "entries" / "notes.txt").write_text("mine")
    assert [name for name, _ in store.verify(remove=True)] == [key(1), "notes.txt"]
    assert not store.entry_path(key(1)).exists()
    assert store.get(key(2)) is not None
    assert stray.exists()


def test_reading_a_damaged_entry_that_was_just_rebuilt_keeps_the_new_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    path = store.entry_path(key(1))
    whole = path.read_bytes()
    path.write_bytes(b"damaged" * 20)
    real = store_files.open_own

    def open_then_rebuild(path: Path) -> Any:
        opened = real(path)
        (path.parent / "new").write_bytes(whole)
        os.replace(path.parent / "new", path)
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(store_files, "open_own", open_then_rebuild)
        assert store.get(key(1)) is None
    assert store.get(key(1)) is not None


# Limit


def entry_bytes(store: Store) -> int:
    store.put(key(0), {}, PAYLOAD)
    size = store.entry_path(key(0)).stat().st_size
    store.clear()
    return size


def test_the_entries_used_longest_ago_are_evicted(tmp_path: Path) -> None:
    size = entry_bytes(Store(tmp_path / "measure"))
    store = Store(tmp_path / "cache", limit_bytes=3 * size)
    for number in (1, 2, 3):
        store.put(key(number), {}, PAYLOAD)
    use_times(store, k1=1000, k2=2000, k3=3000)
    assert store.get(key(1)) is not None, "1 is now the one used last"
    store.put(key(4), {}, PAYLOAD)
    assert {entry.key for entry in store.entries()} == {key(1), key(3), key(4)}
    assert store.counters.evicted == 1
    assert [(reason.kind, reason.node) for reason in store.reasons] == [(ReasonKind.EVICTED, key(2))]


def test_the_entry_just_written_is_never_evicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = entry_bytes(Store(tmp_path / "measure"))
    store = Store(tmp_path / "cache", limit_bytes=size)
    store.put(key(1), {}, PAYLOAD)
    use_times(store, k1=int(time.time()) + 10_000)  # a clock that was wrong then
    assert store.put(key(2), {}, PAYLOAD)
    assert [entry.key for entry in store.entries()] == [key(2)]


def test_an_entry_larger_than_the_limit_is_refused_and_evicts_nothing(tmp_path: Path) -> None:
    size = entry_bytes(Store(tmp_path / "measure"))
    store = Store(tmp_path / "cache", limit_bytes=size)
    store.put(key(1), {}, PAYLOAD)
    assert not store.put(key(2), {}, PAYLOAD + b"1")
    assert kinds(store) == [ReasonKind.UNCACHEABLE]
    assert [entry.key for entry in store.entries()] == [key(1)]


# Negative entries and the last miss


def test_a_negative_entry_answers_until_it_expires(tmp_path: Path) -> None:
    now = 1_000_000.0
    store = Store(tmp_path / "cache", clock=lambda: now)
    assert store.get_negative(key(1)) is None
    assert store.put_negative(key(1), WHY, expires_s=60)
    now += 59
    assert store.get_negative(key(1)) == WHY
    now += 1
    assert store.get_negative(key(1)) is None
    assert store.counters.negative == 1
    now -= 1
    assert store.get_negative(key(1)) is None, "deleted when found expired"


def test_a_negative_entry_from_a_wrong_clock_is_not_believed(tmp_path: Path) -> None:
    now = 5_000_000_000.0
    store = Store(tmp_path / "cache", clock=lambda: now)
    store.put_negative(key(1), WHY, expires_s=60)
    now = 1_000_000.0
    assert store.get_negative(key(1)) is None


def test_a_built_entry_ends_the_negative_one(store: Store) -> None:
    store.put_negative(key(1), WHY, expires_s=60)
    store.put(key(1), HEADER, PAYLOAD)
    assert store.get_negative(key(1)) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"expires": 9e9, "reason": 3}', '{"expires": [], "reason": {}}']
)
def test_a_damaged_negative_entry_or_miss_is_deleted(store: Store, text: str) -> None:
    store.put_negative(key(1), WHY, expires_s=60)
    store.record_miss(key(1), {})
    negative, miss = store.root / "negative" / f"{key(1)}.json", store.root / "last-miss.json"
    for path in (negative, miss):
        path.write_text(text)
    assert store.get_negative(key(1)) is None
    assert store.read_last_miss() is None
    assert not negative.exists()
    assert not miss.exists()
    assert store.counters.corrupt == 2


def test_the_last_miss_is_read_by_another_store(store: Store) -> None:
    assert store.read_last_miss() is None
    store.record_miss(key(1), {"a": 1})
    store.record_miss(key(2), {"a": [2]}, canonical={"ops": []})
    miss = Store(store.root).read_last_miss()
    assert miss is not None
    assert (miss.key, miss.fields, miss.canonical) == (key(2), {"a": [2]}, {"ops": []})


# Directories


def test_a_link_or_a_file_as_root_is_refused(tmp_path: Path) -> None:
    (real := tmp_path / "real").mkdir(mode=0o700)
    (link := tmp_path / "link").symlink_to(real)
    (file := tmp_path / "file").write_text("")
    for bad in (link, file):
        with pytest.raises(StoreError):
            Store(bad)
        store, reason = Store.open(bad)
        assert store is None
        assert reason is not None
        assert reason.kind is ReasonKind.CACHE_UNUSABLE
    assert Store.open(real)[0] is not None


def test_a_link_inside_the_root_is_refused(store: Store, tmp_path: Path) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    (store.root / "entries").rename(tmp_path / "moved")
    (store.root / "entries").symlink_to(tmp_path / "moved")
    with pytest.raises(StoreError):
        Store(store.root)
    assert not store.put(key(2), HEADER, PAYLOAD), "noticed also by a store that was open already"
    assert not (tmp_path / "moved" / key(2)).exists()


def test_another_users_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root := tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StoreError, match="DJINN_CACHE_DIR"):
        Store(root)


def test_an_open_directory_is_tightened_only_if_it_holds_nothing_else(tmp_path: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    (used := tmp_path / "used").mkdir()
    (used / "thesis.tex").write_text("")
    for folder in (empty, used):
        folder.chmod(0o755)
    assert Store(empty).put(key(1), HEADER, PAYLOAD)
    assert mode(empty) == 0o700
    assert not Store(used).put(key(1), HEADER, PAYLOAD)
    assert mode(used) == 0o755


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DJINN_CACHE_DIR", "relative")
    assert default_cache_dir() == Path.cwd() / "relative"
    monkeypatch.setenv("DJINN_CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir().is_relative_to(tmp_path)
    assert default_cache_dir().name == "djinn_fx"


# A disk that refuses


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, number: int, below: Path, writing: bool = False) -> None:
    """Make an ``os`` function fail for paths below a directory: tests may run as root, whom no mode bits stop."""
    real = getattr(os, function)

    def failing(path: Any, *arguments: Any, **keywords: Any) -> Any:
        writes = writing and arguments[0] & (os.O_WRONLY | os.O_RDWR)
        if str(path).startswith(str(below)) and (writes or not writing):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, function, failing)


REFUSALS = {
    "read-only": ("open", errno.EROFS),
    "no permission": ("open", errno.EACCES),
    "disk full": ("open", errno.ENOSPC),
    "read-only, on rename": ("replace", errno.EROFS),
    "quota, on rename": ("replace", errno.EDQUOT),
}


@pytest.mark.parametrize(("function", "number"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_disk_that_refuses_writes_costs_one_warning(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    function: str,
    number: int,
) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    with monkeypatch.context() as patch:
        refuse(patch, function, number, store.root, writing=function == "open")
        for _ in range(3):
            assert not store.put(key(2), HEADER, PAYLOAD)
            assert not store.put_negative(key(2), WHY, 60)
            assert not store.record_miss(key(2), {})
        found = store.get(key(1))
        assert found is not None, "what is stored can still be read"
        assert found.payload == PAYLOAD
    assert len(warnings(caplog)) == 1
    assert os.strerror(number) in warnings(caplog)[0]
    assert kinds(store) == [ReasonKind.CACHE_UNUSABLE]
    assert store.counters.write_failures == 9
    assert list((store.root / "scratch").iterdir()) == []
    assert store.put(key(2), HEADER, PAYLOAD), "it is tried again: a disk does not stay full for ever"


def test_a_disk_that_fills_up_while_writing_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    signer()  # the key is there before the disk is full
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert not store.put(key(1), HEADER, PAYLOAD)
        assert not store.put(key(1), HEADER, PAYLOAD)
    assert len(warnings(caplog)) == 1
    assert store.get(key(1)) is None
    assert list((store.root / "scratch").iterdir()) == []


def test_a_root_that_cannot_be_created_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "cache")
    assert store.get(key(1)) is None
    assert not store.put(key(1), HEADER, PAYLOAD)
    with store.lock(key(1), 1) as held:
        assert not held
    assert len(warnings(caplog)) == 1


def test_an_unreadable_store_answers_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    store.put_negative(key(2), WHY, 60)
    with monkeypatch.context() as patch:
        refuse(patch, "open", errno.EIO, store.root)
        assert store.get(key(1)) is None
        assert store.get_negative(key(2)) is None
        with store.lock(key(1), 1) as held:
            assert not held
    assert len(warnings(caplog)) == 1
    assert store.counters.corrupt == 0
    assert store.get(key(1)) is not None, "an error of the disk is no reason to delete an entry"


def test_a_directory_deleted_while_running_is_made_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    shutil.rmtree(store.root)
    assert store.get(key(1)) is None
    assert store.put(key(1), HEADER, PAYLOAD)
    assert store.get(key(1)) is not None
    with store.lock(key(1), 1) as held:
        shutil.rmtree(store.root)
        assert held
    assert warnings(caplog) == []


def test_an_error_inside_the_lock_is_the_callers(store: Store) -> None:
    with pytest.raises(OSError, match="of the builder"), store.lock(key(1), 1):
        raise OSError("of the builder")
    with store.lock(key(1), 0) as held:
        assert held


def test_what_crashed_writers_left_is_deleted_when_it_is_old(store: Store) -> None:
    store.put(key(1), HEADER, PAYLOAD)
    old, new = (store.root / "scratch" / f"{key(2)}.{name}" for name in ("1.old", "2.new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    store.put(key(3), HEADER, PAYLOAD)
    assert not old.exists()
    assert new.exists(), "somebody may be writing it"
    assert {entry.key for entry in store.entries()} == {key(1), key(3)}


def test_clear_deletes_what_the_store_wrote_and_nothing_else(store: Store) -> None:
    for number in (1, 2):
        store.put(key(number), HEADER, PAYLOAD)
    store.put_negative(key(3), WHY, 60)
    store.record_miss(key(3), {})
    others = [store.root / "entries" / "thesis.tex", store.root / "notes", store.root / "scratch" / "draft"]
    for path in others:
        path.write_text("mine")
    with store.lock(key(4), 1):
        pass
    with store.lock(key(5), 1):
        assert store.clear() == 2
        held = store.root / "locks" / f"{key(5)}.lock"
        assert held.exists(), "somebody builds under it"
    assert {path for path in store.root.rglob("*") if path.is_file()} == {*others, held}
