"""Pages on disk: one safetensors file in a folder of the user's alone, read through a memory map.

The file belongs to one process and goes with it. It is written by the thread that moves pages out, never while tokens
are made. Each page has a checksum, which stays in memory: a page that does not fit it is damaged, and whoever loads it
is told. Pages are written with ``pwrite``, since a full disk is an error there and a fatal signal in a mapping.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from djinn_fx.files.private import own_folder
from djinn_fx.sessions.pools.slots import Slots

_DIGEST_BYTES = 16


class DamagedPage(ValueError):
    """A page on disk is not what was written there."""


class Disk(Slots):
    """Pages in a file.

    Args:
        folder: where the file is made; for this user alone.
        pages: how many it may hold. The file is sparse: what was never written takes no room.
        page_bytes: bytes of each.

    Raises:
        StoreError: the folder is another user's, or none.
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, pages: int, page_bytes: int) -> None:
        own_folder(folder, "choose another folder for swapped pages")
        super().__init__(range(pages))
        self.page_bytes = page_bytes
        self.pages = pages
        self._owner = os.getpid()
        self._checksums: dict[int, bytes] = {}
        size = pages * page_bytes
        header = {"pages": {"dtype": "U8", "shape": [pages, page_bytes], "data_offsets": [0, size]}}
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % mmap.ALLOCATIONGRANULARITY)  # pages begin where one of the system's does
        self._offset = 8 + len(text)
        self.path = folder / f"pages-{os.getpid()}-{secrets.token_hex(8)}.safetensors"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.open(self.path, flags, 0o600)
        try:
            os.write(self._file, struct.pack("<Q", len(text)) + text)
            os.ftruncate(self._file, self._offset + size)
            self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        except BaseException:
            self.close()
            raise

    def give(self, slots: Iterable[int]) -> None:
        """Take pages back."""
        slots = list(slots)
        for slot in slots:
            self._checksums.pop(slot, None)
        super().give(slots)

    def write(self, slot: int, page: torch.Tensor) -> None:
        """Write a page.

        Args:
            slot: its number.
            page: bytes on the CPU, contiguous.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        data = memoryview(page.numpy().data)
        self._checksums[slot] = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
        place, done = self._offset + slot * self.page_bytes, 0
        while done < self.page_bytes:
            done += os.pwrite(self._file, data[done:], place + done)

    def read(self, slot: int, into: torch.Tensor) -> None:
        """Read a page.

        Args:
            slot: its number.
            into: a page of bytes on any device.

        Raises:
            DamagedPage: it is not what was written.
        """
        start = self._offset + slot * self.page_bytes
        if os.fstat(self._file).st_size < start + self.page_bytes:  # to read there would be a fatal signal
            raise DamagedPage(f"{self.path} was cut short: page {slot} is gone")
        data = np.frombuffer(self._map, dtype=np.uint8, count=self.page_bytes, offset=start)
        copied = torch.from_numpy(data.copy())  # what is checked is what is used
        if hashlib.blake2b(copied.numpy().data, digest_size=_DIGEST_BYTES).digest() != self._checksums.get(slot):
            raise DamagedPage(f"page {slot} of {self.path} does not fit its checksum")
        into.copy_(copied)

    def close(self) -> None:
        """Remove the file."""
        mapped = self.__dict__.pop("_map", None)
        if mapped is not None:
            with contextlib.suppress(BufferError):  # a page is being read: the map goes with its reader
                mapped.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._owner == os.getpid():  # not from a forked process
            with contextlib.suppress(OSError):
                self.path.unlink()
