"""Copies that are to be made, or under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Way(Enum):
    """From where to where."""

    TO_HOST = "device to host"
    TO_DISK = "device to disk"
    HOST_TO_DISK = "host to disk"
    FROM_HOST = "host to device"
    FROM_DISK = "disk to device"

    @property
    def enters_device(self) -> bool:
        """Whether pages return."""
        return self in (Way.FROM_HOST, Way.FROM_DISK)

    @property
    def leaves_device(self) -> bool:
        """Whether pages leave."""
        return self in (Way.TO_HOST, Way.TO_DISK)


@dataclass(eq=False)
class Job:
    """Pages that are copied together.

    Attributes:
        way: from where to where.
        moves: page, source and target of each copy; when it has begun, of those that were still wanted.
        cancelled: pages that are not to be moved any more.
        failed: pages that could not be copied, and why.
        stays: pages that leave a copy below and stay on the device.
        after: what the device was doing when the job was made, on CUDA: its writes must be seen.
    """

    way: Way
    moves: list[tuple[int, int, int]]
    cancelled: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    stays: set[int] = field(default_factory=set)
    after: Any = None
