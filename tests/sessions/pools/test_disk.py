"""Pages on disk: others can read the file, damage is noticed, a full disk is an answer."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from djinn_fx.errors import StoreError
from djinn_fx.sessions.pools.arena import Arena
from djinn_fx.sessions.pools.checks import check
from djinn_fx.sessions.pools.disk import DamagedPage, Disk
from djinn_fx.sessions.pools.moves import ManualMover
from djinn_fx.sessions.pools.store import Store

SIZE = 4096


def on_disk(folder: Path) -> tuple[Store, ManualMover, int]:
    """A page of sevens, on the disk alone."""
    store = Store(Arena(2, SIZE, kept=1), None, Disk(folder, 3, SIZE))
    mover = ManualMover(store)
    (page,) = store.allocate(1) or []
    store.device.memory[store.table.device[page]] = 7
    for job in store.evict([page])[1]:
        mover.submit(job)
    mover.run()
    assert store.table.device[page] == -1
    return store, mover, page


def load(store: Store, mover: ManualMover, page: int) -> None:
    for job in store.load([page])[0]:
        mover.submit(job)
    mover.run()
    check(store)


def test_the_file_is_safetensors_of_this_user_alone_and_goes_with_the_pool(tmp_path: Path) -> None:
    store, mover, page = on_disk(tmp_path / "own")
    assert store.disk is not None
    path = store.disk.path
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with safe_open(path, "pt") as file:
        assert file.get_tensor("pages").shape == (3, SIZE)
        assert (file.get_tensor("pages")[store.table.disk[page]] == 7).all()
    load(store, mover, page)
    assert (store.device.memory[store.table.device[page]] == 7).all()
    store.disk.close()
    store.disk.close()
    assert not path.exists()


@pytest.mark.parametrize("damage", ["bit", "cut"])
def test_a_damaged_page_is_not_given_out_and_counted(damage: str, tmp_path: Path) -> None:
    store, mover, page = on_disk(tmp_path)
    assert store.disk is not None
    with open(store.disk.path, "r+b") as file:
        if damage == "bit":
            file.seek(-3 * SIZE + store.table.disk[page] * SIZE + 100, os.SEEK_END)
            file.write(b"\x06")
        else:
            file.truncate(2000)
    load(store, mover, page)
    assert store.lost(page)
    assert store.counts.damaged == 1
    assert store.device.free == 2
    assert store.disk.free == 3


def test_a_full_disk_leaves_the_page_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Arena(2, SIZE, kept=1), None, Disk(tmp_path, 3, SIZE))
    mover = ManualMover(store)
    (page,) = store.allocate(1) or []

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for job in store.evict([page])[1]:
        mover.submit(job)
    mover.run()
    assert store.on_device(page)
    assert store.counts.failed == 1
    assert store.disk is not None
    assert store.disk.free == 3
    check(store)


def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        Disk(tmp_path / "file", 1, SIZE)


def test_reading_what_was_never_written_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedPage):
        Disk(tmp_path, 1, SIZE).read(0, torch.empty(SIZE, dtype=torch.uint8))
