"""The kernel's interface for seeing writes into memory: linux/userfaultfd.h and linux/fs.h, by ctypes.

Pages are protected so that the kernel itself lifts the protection at the first write (userfaultfd, feature WP_ASYNC);
PAGEMAP_SCAN names the pages that were written since it was last asked, and protects them again in the same step.

Or so that who writes waits (:class:`Barrier`), while the pages are replaced.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
import sys

#: Bytes of a page: what the kernel protects at a time.
PAGE = mmap.PAGESIZE

#: A range of addresses, from the first to behind the last.
Span = tuple[int, int]


def _ioctl(direction: int, kind: int, number: int, size: int) -> int:
    """The number of an ioctl, as asm-generic/ioctl.h makes it. Direction: 2 for _IOR, 3 for _IOWR."""
    return direction << 30 | size << 16 | kind << 8 | number


_SYSCALLS = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
_API, _REGISTER, _RANGE, _SCAN = struct.Struct("3Q"), struct.Struct("4Q"), struct.Struct("2Q"), struct.Struct("12Q")
UFFDIO_API = _ioctl(3, 0xAA, 0x3F, _API.size)
UFFDIO_REGISTER = _ioctl(3, 0xAA, 0x00, _REGISTER.size)
UFFDIO_UNREGISTER = _ioctl(2, 0xAA, 0x01, _RANGE.size)
UFFDIO_WAKE = _ioctl(2, 0xAA, 0x02, _RANGE.size)
UFFDIO_WRITEPROTECT = _ioctl(3, 0xAA, 0x06, struct.calcsize("3Q"))
PAGEMAP_SCAN = _ioctl(3, ord("f"), 16, _SCAN.size)
_UFFD_USER_MODE_ONLY, _UFFD_API = 1, 0xAA
_WP, _WP_UNPOPULATED, _WP_ASYNC = 1 << 0, 1 << 13, 1 << 15
_REGISTER_MODE_WP = 1 << 1
_PM_SCAN_WP_MATCHING, _PM_SCAN_CHECK_WPASYNC = 1 << 0, 1 << 1
_PAGE_IS_WRITTEN = 1 << 1
#: Ranges that one scan can name before it is asked again.
_ANSWERS = 128


def _userfaultfd(flags: int) -> int:
    number = _SYSCALLS.get(platform.machine())
    if number is None or sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"not known on {sys.platform} for {platform.machine()}")
    found: int = ctypes.CDLL(None, use_errno=True).syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | flags)
    if found < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    return found


class Kernel:
    """The two descriptors, and what is asked of them. Not for several threads at once.

    Raises:
        OSError: the kernel cannot, or this process may not.
    """

    def __init__(self) -> None:
        self._faults = _userfaultfd(_UFFD_USER_MODE_ONLY)
        self._pages = -1
        try:
            wanted = _WP_ASYNC | _WP_UNPOPULATED
            fcntl.ioctl(self._faults, UFFDIO_API, bytearray(_API.pack(_UFFD_API, wanted, 0)), True)
            self._pages = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            self._answers = (ctypes.c_uint64 * (3 * _ANSWERS))()
            self._test()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptors; what they protect is protected no more."""
        for descriptor in (self._faults, self._pages):
            if descriptor >= 0:
                os.close(descriptor)
        self._faults = self._pages = -1

    def register(self, start: int, end: int) -> None:
        """Have the kernel answer for these pages. Protects none yet.

        Raises:
            OSError: it does not, for this kind of memory.
        """
        fcntl.ioctl(self._faults, UFFDIO_REGISTER, bytearray(_REGISTER.pack(start, end - start, _REGISTER_MODE_WP, 0)))

    def unregister(self, start: int, end: int) -> None:
        """Take the protection off. Raises OSError where it cannot be."""
        fcntl.ioctl(self._faults, UFFDIO_UNREGISTER, bytearray(_RANGE.pack(start, end - start)))

    def scan(self, start: int, end: int) -> list[Span]:
        """The pages written since they were last scanned; protects them again in the same step.

        Raises:
            OSError: EPERM: some page is not registered (any more); what was written before is lost.
        """
        found: list[Span] = []
        while start < end:
            asked = bytearray(
                _SCAN.pack(
                    _SCAN.size, _PM_SCAN_WP_MATCHING | _PM_SCAN_CHECK_WPASYNC, start, end, 0,
                    ctypes.addressof(self._answers), _ANSWERS, 0, 0, _PAGE_IS_WRITTEN, 0, _PAGE_IS_WRITTEN,
                )
            )  # fmt: skip
            count = fcntl.ioctl(self._pages, PAGEMAP_SCAN, asked, True)
            found += [(self._answers[3 * k], self._answers[3 * k + 1]) for k in range(count)]
            reached = _SCAN.unpack(asked)[4]
            if reached <= start:
                raise OSError(errno.EIO, "a scan that does not get on")
            start = reached
        return found

    def _test(self) -> None:
        """Whether it does what its interface says, on pages made for it: some systems only imitate Linux."""
        with mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
            area[0], area[2 * PAGE] = 1, 1
            start = ctypes.addressof(ctypes.c_char.from_buffer(area))
            self.register(start, start + 4 * PAGE)
            self.scan(start, start + 4 * PAGE)
            quiet = self.scan(start, start + 4 * PAGE)
            area[2 * PAGE] = 2
            seen = self.scan(start, start + 4 * PAGE)
        if quiet or seen != [(start + 2 * PAGE, start + 3 * PAGE)]:
            raise OSError(errno.ENOTSUP, "writes are not told as they happen")


class Barrier:
    """Has who writes to some pages wait. Whoever holds Python's lock may be among them.

    Where this process may not stop the kernel's own writes (``readinto``), such a one fails with EFAULT meanwhile.

    Raises:
        OSError: the kernel cannot, or this process may not.
    """

    def __init__(self) -> None:
        try:
            self.descriptor = _userfaultfd(0)
        except PermissionError:
            self.descriptor = _userfaultfd(_UFFD_USER_MODE_ONLY)
        try:
            fcntl.ioctl(self.descriptor, UFFDIO_API, bytearray(_API.pack(_UFFD_API, _WP, 0)), True)
        except BaseException:
            os.close(self.descriptor)
            raise

    def close(self) -> None:
        """Nobody waits any more."""
        os.close(self.descriptor)

    def register(self, start: int, end: int) -> None:
        """Have these pages, which are this process's own memory, ready to be protected.

        Raises:
            OSError: somebody else watches them, or they are other memory.
        """
        fcntl.ioctl(
            self.descriptor, UFFDIO_REGISTER, bytearray(_REGISTER.pack(start, end - start, _REGISTER_MODE_WP, 0))
        )

    def unregister(self, start: int, end: int) -> None:
        """Let them be, and who waits go on. Raises OSError."""
        fcntl.ioctl(self.descriptor, UFFDIO_UNREGISTER, bytearray(_RANGE.pack(start, end - start)))

    def requests(self, start: int, end: int) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
        """The ioctls, each with what it is given, after which writers wait, and after which they go on."""
        protect = struct.pack("3Q", start, end - start, 1)
        return (UFFDIO_WRITEPROTECT, protect), (UFFDIO_WAKE, _RANGE.pack(start, end - start))
