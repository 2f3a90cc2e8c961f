"""Bundles: entries carried to another store, and tar files made to harm."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest

from djinn_fx.errors import StoreError
from djinn_fx.store import bundle
from djinn_fx.store.bundle import ALREADY_STORED, export_bundle, import_bundle
from djinn_fx.store.format import encode
from djinn_fx.store.store import Store

HEADER = {"label": "layer", "fields": {"phase": "decode"}}


def key(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = Store(tmp_path / "source")
    for number in (1, 2):
        store.put(key(number), HEADER, bytes([number]) * 1000)
    return store


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store(tmp_path / "target")


def contents(store: Store) -> dict[str, bytes]:
    return {entry.key: store.entry_path(entry.key).read_bytes() for entry in store.entries()}


def write_tar(file: Path, *members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(file, "w", format=format) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file


def test_entries_travel_byte_by_byte(source: Store, target: Store, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar"
    assert export_bundle(source, file) == 2
    assert import_bundle(target, file) == (2, [])
    assert contents(target) == contents(source)
    assert import_bundle(target, file) == (0, [(key(1), ALREADY_STORED), (key(2), ALREADY_STORED)])
    assert [path.name for path in tmp_path.glob("bundle*")] == ["bundle.tar"]


def test_equal_caches_give_equal_bundles(source: Store, target: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    export_bundle(source, one)
    import_bundle(target, one)
    export_bundle(target, two)
    assert one.read_bytes() == two.read_bytes()


def test_a_damaged_entry_is_not_exported(source: Store, tmp_path: Path) -> None:
    path = source.entry_path(key(1))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert export_bundle(source, tmp_path / "bundle.tar") == 1
    with tarfile.open(tmp_path / "bundle.tar") as tar:
        assert tar.getnames() == [key(2)]


def test_a_failed_export_keeps_the_old_bundle(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "bundle.tar").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OSError, match="disk full"):
        export_bundle(source, file)
    assert [path.read_bytes() for path in tmp_path.glob("bundle*")] == [b"old"]


def test_members_that_are_no_entries_are_listed_and_the_rest_imported(
    source: Store, target: Store, tmp_path: Path
) -> None:
    good = source.entry_path(key(1)).read_bytes()
    names = ["../escape", "/tmp/escape", f"../../{key(1)}", f"sub/{key(1)}", "A" * 64, key(1)[:-1], f"./{key(1)}"]
    file = write_tar(
        tmp_path / "bad.tar",
        # Each with a checksum that is right for its name: the name alone must be what stops it.
        *((tarfile.TarInfo(name), b"".join(encode(name, HEADER, b""))) for name in names),
        (tarfile.TarInfo(key(20)), good),  # another key than it was written for
        (tarfile.TarInfo(key(21)), good[:-1]),
        (tarfile.TarInfo(key(22)), b""),
        (tarfile.TarInfo(key(1)), good),
        (tarfile.TarInfo(key(1)), good),
    )
    imported, skipped = import_bundle(target, file)
    assert imported == 1
    assert [name for name, _ in skipped] == [*names, key(20), key(21), key(22), key(1)]
    assert contents(target) == {key(1): good}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", "bad.tar"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("with_data", [False, True])
def test_only_regular_files_are_imported(
    source: Store, target: Store, tmp_path: Path, kind: bytes, with_data: bool
) -> None:
    good = source.entry_path(key(1)).read_bytes() if with_data else b""
    member = tarfile.TarInfo(key(1))
    member.type, member.linkname, member.size = kind, "/etc/passwd", len(good)
    (file := tmp_path / "bad.tar").write_bytes(member.tobuf() + good + bytes(2048))
    imported, skipped = import_bundle(target, file)
    assert (imported, [name for name, _ in skipped]) == (0, [key(1)])
    assert not target.root.exists()


def huge(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE])
@pytest.mark.parametrize("size", [2**62, 2**33, 2**31, 10_000])
def test_a_member_that_claims_more_than_the_file_holds_is_not_read(
    source: Store, target: Store, tmp_path: Path, kind: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_tar(tmp_path / "bad.tar", (tarfile.TarInfo(key(1)), source.entry_path(key(1)).read_bytes()))
    first = file.read_bytes()[: 512 * 4]
    file.write_bytes(first + huge(key(2), size, kind) + b"x" * 600)
    imported, skipped = import_bundle(target, file)
    assert (imported, [name for name, _ in skipped]) == (1, [key(2)])


def test_a_negative_size_does_not_loop(target: Store, tmp_path: Path) -> None:
    block = bytearray(huge(key(1), 2**62))
    block[124:136] = b"\xff" * 11 + b"\x00"  # base-256, minus 256
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (file := tmp_path / "bad.tar").write_bytes(bytes(block) * 3)
    imported, skipped = import_bundle(target, file)
    assert (imported, len(skipped)) == (0, 1)


def test_extension_records_do_not_rename_a_member(source: Store, target: Store, tmp_path: Path) -> None:
    member = tarfile.TarInfo("innocent")
    member.pax_headers = {"path": key(1)}
    file = write_tar(tmp_path / "pax.tar", (member, source.entry_path(key(1)).read_bytes()), format=tarfile.PAX_FORMAT)
    imported, skipped = import_bundle(target, file)
    assert imported == 0
    assert len(skipped) == 2


def test_the_number_of_members_is_bounded(
    source: Store, target: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_bundle(source, tmp_path / "bundle.tar")
    monkeypatch.setattr(bundle, "MAX_MEMBERS", 1)
    imported, skipped = import_bundle(target, tmp_path / "bundle.tar")
    assert (imported, [name for name, _ in skipped]) == (1, ["(rest)"])
    with pytest.raises(StoreError):
        export_bundle(source, tmp_path / "other.tar")


def test_an_import_does_not_evict_what_it_just_imported(source: Store, tmp_path: Path) -> None:
    export_bundle(source, tmp_path / "bundle.tar")
    target = Store(tmp_path / "target", limit_bytes=source.entry_path(key(1)).stat().st_size + 10)
    imported, skipped = import_bundle(target, tmp_path / "bundle.tar")
    assert (imported, [name for name, _ in skipped]) == (1, [key(2)])
    assert list(contents(target)) == [key(1)]


@pytest.mark.parametrize("data", [b"not a tar file, but text", b"\x1f\x8b" + b"z" * 2000, b"x" * 512])
def test_what_is_no_tar_file_is_an_error(target: Store, tmp_path: Path, data: bytes) -> None:
    (file := tmp_path / "bad.tar").write_bytes(data)
    with pytest.raises(StoreError, match=r"bad\.tar"):
        import_bundle(target, file)


def test_a_bundle_cut_short_gives_what_is_whole(source: Store, target: Store, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar"
    export_bundle(source, file)
    size = source.entry_path(key(1)).stat().st_size
    second = 512 + -(-size // 512) * 512
    whole = file.read_bytes()
    for cut in (second + 100, second + 512 + 10):  # inside the second member's header, inside its data
        file.write_bytes(whole[:cut])
        target.clear()
        imported, skipped = import_bundle(target, file)
        assert (imported, len(skipped)) == (1, 1)
        assert list(contents(target)) == [key(1)]


def test_a_store_that_cannot_be_written_says_why_for_each(
    source: Store, target: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_bundle(source, tmp_path / "bundle.tar")

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", read_only)
    imported, skipped = import_bundle(target, tmp_path / "bundle.tar")
    assert imported == 0
    assert [name for name, why in skipped if os.strerror(errno.EROFS) in why] == [key(1), key(2)]
