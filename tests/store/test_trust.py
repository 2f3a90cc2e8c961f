"""What somebody else put into a cache directory is as good as not there, and is said; an import is the user's word."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from djinn_fx.cli.main import main
from djinn_fx.compiling import readiness
from djinn_fx.dispatch.contests.decisions import recall, remember
from djinn_fx.dispatch.tier import Tier
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.engines.keys import EngineKey
from djinn_fx.engines.packed.speed import FILE, ProductSpeed
from djinn_fx.guard.quarantine import Quarantine
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.store import format as store_format
from djinn_fx.store.bundle import export_bundle, import_bundle, import_folder
from djinn_fx.store.format import MAGIC, PREFIX_BYTES, SCHEMA_VERSION, encode, read_head
from djinn_fx.store.store import Store

HEADER = {"schema": 1, "label": "layer", "fields": {"phase": "decode"}}
PAYLOAD = bytes(range(256)) * 4
WHY = Reason(kind=ReasonKind.QUARANTINED, detail="a wrong answer", node="layer")


def key(number: int) -> str:
    return f"{number:064x}"


class Users:
    """Changes between users, each with a configuration folder of their own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, patch

    def become(self, name: str) -> None:
        self._patch.setenv("DJINN_CONFIG_DIR", str(self._folder / name))


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Users:
    made = Users(tmp_path, monkeypatch)
    made.become("mallory")
    return made


@pytest.fixture
def foreign(tmp_path: Path, users: Users) -> Path:
    """A folder that somebody else filled; the test goes on as another user."""
    store = Store(tmp_path / "cache")
    for number in (1, 2):
        assert store.put(key(number), HEADER, PAYLOAD)
    store.put_negative(key(3), WHY, 3600)
    store.record_miss(key(4), {"phase": "prefill"})
    users.become("alice")
    return store.root


def kinds(store: Store) -> list[ReasonKind]:
    return [reason.kind for reason in store.reasons]


# A foreign folder


def test_a_foreign_folders_entries_are_misses_with_a_reason(foreign: Path, users: Users) -> None:
    store = Store(foreign)
    before = store.entry_path(key(1)).read_bytes()
    assert store.get(key(1)) is None
    assert not store.has(key(1))
    assert (store.counters.foreign, store.counters.corrupt, store.counters.misses) == (1, 0, 1)
    assert [(reason.kind, reason.node) for reason in store.reasons] == [(ReasonKind.CACHE_MISS, key(1))]
    assert store.entry_path(key(1)).read_bytes() == before, "it may be of use to whoever wrote it"
    assert store.entries() == []
    assert set(store.foreign()) == {key(1), key(2)}
    assert [name for name, _ in store.verify()] == [key(1), key(2)]
    users.become("mallory")
    assert Store(foreign).get(key(1)) is not None


def test_a_process_is_warned_once_and_status_says_it(foreign: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "djinn_fx.store"):
        for number in (1, 2):
            assert Store(foreign).get(key(number)) is None
    assert len(caplog.records) == 1
    (line,) = [one for one in readiness.status(lambda: None).caches if str(foreign) in one]
    assert line.startswith("2 entries")
    assert line in str(readiness.status(lambda: None))


def test_what_is_built_instead_takes_its_place(foreign: Path) -> None:
    store = Store(foreign)
    assert store.get(key(1)) is None
    assert "is not used" in store.why_missed(key(1))
    assert store.put(key(1), HEADER, b"mine")
    entry = Store(foreign).get(key(1))
    assert entry is not None
    assert entry.payload == b"mine"
    assert "no entry" in store.why_missed(key(1))


def test_the_region_that_missed_says_so(foreign: Path) -> None:
    store = Store(foreign)
    graph: Any = SimpleNamespace(label="layer", canonical=None)
    tier, asked = Tier(EagerEngine(), store), EngineKey(digest=key(1), fields={})
    assert tier.in_store(asked, lambda _: True) is None
    reason = tier.note_miss(asked, graph)
    assert reason is not None
    assert reason.kind is ReasonKind.CACHE_MISS


def test_nothing_else_in_it_is_believed(foreign: Path) -> None:
    store = Store(foreign)
    assert store.get_negative(key(3)) is None
    assert Quarantine().get(EngineKey(digest=key(3), fields={}), store) is None
    assert store.read_last_miss() is None
    assert store.counters.foreign == 3
    assert store.put_negative(key(3), WHY, 3600)
    assert Store(foreign).get_negative(key(3)) == WHY


def test_neither_are_decisions_and_measured_products(tmp_path: Path, users: Users) -> None:
    store = Store(tmp_path / "cache")
    remember(store, key(1), "layer", "packed", {"packed": 1e-9, "inductor": 1.0})
    shape: Any = SimpleNamespace(text=lambda: "shape", measured=lambda: shape)
    ProductSpeed(store.root, lambda _: {"aten": 1.0, "mkl": 1e-9}).best(shape)
    assert (store.root / FILE).exists()
    users.become("alice")
    assert recall(Store(store.root), key(1)) is None
    assert ProductSpeed(store.root, lambda _: {"aten": 1.0}).best(shape) == "aten"


def test_a_negative_entry_counts_for_its_own_key_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    store.put_negative(key(1), WHY, 3600)
    folder = store.root / "negative"
    os.rename(folder / f"{key(1)}.json", folder / f"{key(2)}.json")
    assert store.get_negative(key(2)) is None


def test_an_entry_of_the_old_form_is_a_miss_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    store.put(key(1), HEADER, PAYLOAD)
    store.entry_path(key(1)).write_bytes(struct.pack("<8sIIQ", MAGIC, 1, 2, 0) + bytes(32) + b"{}")
    assert store.get(key(1)) is None
    assert kinds(store) == [ReasonKind.CACHE_MISS]
    assert not store.entry_path(key(1)).exists()
    assert SCHEMA_VERSION > 1


@pytest.mark.parametrize("signature", [bytes(32), b"\1" * 32, "of another entry"])
def test_right_checksums_are_no_signature(tmp_path: Path, signature: Any) -> None:
    store = Store(tmp_path / "cache")
    store.put(key(1), HEADER, PAYLOAD)
    path = store.entry_path(key(1))
    if signature == "of another entry":
        signature = path.read_bytes()[56:88]
    evil = b"".join(encode(key(1), HEADER, b"evil"))
    head = read_head(io.BytesIO(evil), len(evil), key(1))
    checksum = hashlib.sha256(head.digest(key(1)) + signature).digest()
    path.write_bytes(head.numbers + head.payload_digest + signature + checksum + head.raw + b"evil")
    assert store.get(key(1)) is None
    assert store.counters.foreign == 1


def test_somebody_elses_header_is_never_parsed(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(len(text)) or {})
    store = Store(foreign)
    assert (store.get(key(1)), store.entries(), store.get_negative(key(3)), store.read_last_miss()) == (
        None, [], None, None,
    )  # fmt: skip
    assert store.verify()
    assert not parsed


def test_a_key_that_cannot_be_kept_makes_the_disk_cache_this_processs_own(
    tmp_path: Path, users: Users, foreign: Path
) -> None:
    (tmp_path / "nobody").write_text("in the way")
    users.become("nobody")
    store = Store(foreign)
    assert store.get(key(1)) is None
    assert ReasonKind.CACHE_UNUSABLE in kinds(store)
    assert not store.troubled, "the directory itself is well"
    assert store.put(key(5), HEADER, PAYLOAD)
    assert store.get(key(5)) is not None
    assert "DJINN_CONFIG_DIR" in store.why_missed(key(1))


# The commands


@pytest.mark.parametrize("word", ["ls", "why"])
def test_the_commands_say_it(foreign: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    words = [word, key(1)[:64]] if word == "why" else [word]
    assert main(["cache", *words, "--dir", str(foreign)]) == 0
    out = capsys.readouterr().out
    assert "not used" in out
    assert "another key" in out
    assert "layer" not in out, "nothing that somebody else wrote is shown"


def test_a_foreign_folder_is_taken_in_when_the_user_says_so(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "import", str(foreign), "--dir", str(foreign)]) == 0
    capsys.readouterr()
    assert len(Store(foreign).entries()) == 2
    assert Store(foreign).get(key(1)) is not None


def test_importing_a_folder_looks_at_each_file(foreign: Path, tmp_path: Path) -> None:
    entries = foreign / "entries"
    whole = (entries / key(2)).read_bytes()
    (entries / key(2)).write_bytes(whole[:-1])
    (entries / key(6)).write_bytes(whole)
    (entries / key(7)).symlink_to(entries / key(1))
    (entries / "notes").write_text("no entry")
    count, skipped = import_folder(Store(tmp_path / "mine"), foreign)
    assert count == 1
    assert sorted(name for name, _ in skipped) == sorted([key(2), key(6), key(7), "notes"])


# Bundles


def test_an_import_signs_for_whoever_imports(foreign: Path, tmp_path: Path, users: Users) -> None:
    users.become("mallory")
    file = tmp_path / "bundle.tar"
    assert export_bundle(Store(foreign), file) == 2
    with tarfile.open(file) as tar:
        member = tar.extractfile(key(1))
        assert member is not None
        assert member.read() == b"".join(encode(key(1), HEADER, PAYLOAD)), "no signature leaves"
    users.become("alice")
    assert import_bundle(Store(tmp_path / "mine"), file) == (2, [])
    entry = Store(tmp_path / "mine").get(key(1))
    assert entry is not None
    assert (entry.header, entry.payload) == (HEADER, PAYLOAD)


def test_a_foreign_entry_is_not_exported(foreign: Path, tmp_path: Path) -> None:
    assert export_bundle(Store(foreign), tmp_path / "bundle.tar") == 0


def big_bundle(path: Path, header: bytes, payload_bytes: int) -> Path:
    """A bundle of one entry whose payload is a hole; no checksum of it is right."""
    size = PREFIX_BYTES + len(header) + payload_bytes
    member = tarfile.TarInfo(key(1))
    member.size = size
    numbers = struct.pack("<8sIIQ", MAGIC, SCHEMA_VERSION, len(header), payload_bytes)
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT) + numbers + bytes(PREFIX_BYTES - len(numbers)) + header)
        file.truncate(512 + -(-size // 512) * 512 + 1024)
    return path


def right(path: Path) -> Path:
    """The bundle with a right checksum of its head, so that its payload is looked at."""
    with path.open("r+b") as file:
        file.seek(512)
        numbers = file.read(24)
        header_bytes, payload_bytes = struct.unpack("<IQ", numbers[12:])
        file.seek(512 + PREFIX_BYTES)
        head = store_format.Head(numbers, bytes(32), bytes(32), file.read(header_bytes), payload_bytes)
        file.seek(512)
        file.write(head.prefix(key(1), None))
    return path


@pytest.mark.parametrize("checksum", [False, True])
def test_a_bundle_that_claims_much_takes_little(tmp_path: Path, checksum: bool) -> None:
    file = big_bundle(tmp_path / "big.tar", b"{}", 400_000_000)
    if checksum:
        right(file)
    store = Store(tmp_path / "cache")
    tracemalloc.start()
    try:
        imported, skipped = import_bundle(store, file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (imported, [name for name, _ in skipped]) == (0, [key(1)])
    assert peak < 16_000_000
    assert not store.root.exists(), "nothing is written before it was read once"


@pytest.mark.parametrize("filler", [b"[],", b"1,", b'"a",', b"[[],[]],"])
def test_a_large_header_is_refused_before_it_is_parsed(
    tmp_path: Path, filler: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text, **given: parsed.append(len(text)) or loads(text, **given))
    header = b'{"a":[' + filler * (store_format.MAX_HEADER_BYTES // len(filler) - 10) + b"0]}"
    file = right(big_bundle(tmp_path / "big.tar", header, 0))
    imported, skipped = import_bundle(Store(tmp_path / "cache"), file)
    assert (imported, [name for name, _ in skipped]) == (0, [key(1)])
    assert not [size for size in parsed if size >= len(header)]


def test_a_bundle_is_read_no_further_than_the_cache_may_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Store(tmp_path / "source")
    for number in range(5):
        source.put(key(number), HEADER, PAYLOAD)
    export_bundle(source, tmp_path / "bundle.tar")
    read: list[str] = []
    monkeypatch.setattr(Store, "adopt", lambda self, name, *_: read.append(name) or "damaged")
    size = source.entry_path(key(1)).stat().st_size
    import_bundle(Store(tmp_path / "target", limit_bytes=2 * size), tmp_path / "bundle.tar")
    assert read == [key(0), key(1)]
