"""Workers on Ray that a graph may be spread over: where they are, how long one waits for them, what they may hold.

workers: local:2
worker_timeout: 60s
worker_memory: 4GB
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, field_validator

from djinn_fx.errors import UnitError
from djinn_fx.settings.field import setting
from djinn_fx.units import parse_bytes, parse_seconds

_LOCAL = re.compile(r"local:([1-9][0-9]{0,2})")
_ADDRESS = re.compile(r"auto|ray://[^\s/]+:[0-9]{1,5}|[^\s/:]+:[0-9]{1,5}")
#: What a worker is called among devices, with its number.
_NAME = re.compile(r"worker:(0|[1-9][0-9]{0,2})")


@dataclass(frozen=True)
class WorkersAt:
    """Where workers are.

    Attributes:
        local: how many on this machine, in a Ray instance of our own; 0: they are elsewhere.
        address: of the Ray instance that is joined; empty: our own.
    """

    local: int
    address: str = ""


WORKERS: Any = setting(
    None,
    "devices",
    "workers on Ray to spread a graph over: `local:2` starts two on this machine, `auto` or an address joins a Ray "
    "that is there (docs/remote_workers.md); none: everything runs in this process",
    accepts='"local:" and how many, "auto", an address such as 10.0.0.1:6379, or none',
    compiles=True,
)
WORKER_TIMEOUT: Any = setting(
    "60s",
    "devices",
    "how long a worker may give no sign of life before it counts as lost",
    accepts="a duration such as 60s or 2min",
)
WORKER_MEMORY: Any = setting(
    None,
    "devices",
    "what a worker's part of a model may take; none: as much as its machine has",
    accepts="a size such as 4GB, or none",
    compiles=True,
)


class WorkerSettings(BaseModel, frozen=True, extra="forbid", strict=True):
    """How the settings about workers are read."""

    @field_validator("workers", mode="before", check_fields=False)
    @classmethod
    def _workers(cls, value: Any) -> Any:
        if value is not None:
            read_workers(value)
        return value

    @field_validator("worker_timeout", mode="before", check_fields=False)
    @classmethod
    def _worker_timeout(cls, value: Any) -> Any:
        if _quantity(value, parse_seconds) <= 0:
            raise ValueError("it is more than nothing")
        return value

    @field_validator("worker_memory", mode="before", check_fields=False)
    @classmethod
    def _worker_memory(cls, value: Any) -> Any:
        if value is not None:
            _quantity(value, parse_bytes)
        return value


def read_workers(value: Any) -> WorkersAt:
    """The setting ``workers``.

    Raises:
        ValueError: it is none.
    """
    text = value if isinstance(value, str) else repr(value)
    local = _LOCAL.fullmatch(text)
    if local is not None:
        return WorkersAt(local=int(local[1]))
    if text.startswith("local:") or not _ADDRESS.fullmatch(text):
        raise ValueError("write local:2 for two workers here, or the address of a Ray that is there")
    return WorkersAt(local=0, address=text)


def worker_name(number: int) -> str:
    """What a worker is called among devices."""
    return f"worker:{number}"


def is_worker(device: str) -> bool:
    """Whether a device's name is a worker's."""
    return _NAME.fullmatch(device) is not None


def _quantity(value: Any, parse: Any) -> float:
    try:
        return float(parse(value if isinstance(value, str) else repr(value)))
    except UnitError as error:
        raise ValueError(str(error)) from error
