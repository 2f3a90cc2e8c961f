"""Opening a model for sessions: its pools, their links and its policy, from what a user says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from djinn_fx.errors import InfeasibleError, SettingsError
from djinn_fx.files.private import default_cache_dir
from djinn_fx.pool.limits import available_bytes
from djinn_fx.runtime.devices.links import Bucket
from djinn_fx.sessions.caches.model import SessionModel
from djinn_fx.sessions.manager import SessionManager
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.policy.named import policy_named
from djinn_fx.sessions.pools.arena import Arena
from djinn_fx.sessions.pools.disk import Disk
from djinn_fx.sessions.pools.moves import ThreadMover
from djinn_fx.sessions.pools.store import Store
from djinn_fx.settings.devices import DeclaredLink
from djinn_fx.units import parse_bandwidth, parse_bytes

#: The share of memory that can be had which a pool takes where nobody says how much.
DEFAULT_SHARE = 0.25


@dataclass(frozen=True)
class SessionOptions:
    """How a model's sessions are kept.

    Attributes:
        device: of the pool beside the weights, bytes or text such as ``"2GB"``; None for a quarter of what is free.
        host: of the pool in host memory; 0 for none, None for as much as the device's.
        disk: of the pool on disk; 0 for none.
        folder: where the disk pool's file is; None for one in djinn's cache folder.
        page_tokens: tokens that a page holds, of the layers that keep most.
        cache: ``"model"`` keeps keys and values as the model makes them, ``"int8"`` rounds them to 8 bits.
        chunk: the most new tokens that a session computes in a step; a power of two.
        batch: the most sessions of a step.
        link: bytes a second between device and host, as a number or text such as ``"25 GB/s"``, where one that is not
            here is to be stood for; None for as fast as it is.
        policy: who decides what leaves and returns: a name in :mod:`djinn_fx.sessions.policy.named`, or a policy of
            one's own.
        quotas: by tenant, the share of each pool that it may have while others want it, 0 to 1.
        threaded: make steps in a thread; else whoever calls ``step`` makes them.
    """

    device: int | str | None = None
    host: int | str | None = None
    disk: int | str = 0
    folder: Path | str | None = None
    page_tokens: int = 16
    cache: str = "model"
    chunk: int = 64
    batch: int = 16
    link: float | str | None = None
    policy: str | Policy = "djinn"
    quotas: Mapping[str, float] = field(default_factory=dict)
    threaded: bool = True

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.chunk & (self.chunk - 1):
            raise SettingsError(f"chunk is {self.chunk}: give a power of two")
        if self.page_tokens < 1 or self.batch < 1:
            raise SettingsError("page_tokens and batch are counts of at least one")
        if self.cache not in ("model", "int8"):
            raise SettingsError(f"cache is {self.cache!r}: give 'model' or 'int8'")
        for tenant, share in self.quotas.items():
            if not 0 < share <= 1:
                raise SettingsError(f"the quota of tenant {tenant!r} is {share}: give a share above 0, at most 1")


def open_manager(model: Any, options: SessionOptions) -> SessionManager:
    """The manager of a model's sessions.

    Args:
        model: of Transformers, in eval mode, or what ``torch.compile`` made of one.
        options: as said.

    Raises:
        ModelFileError: it keeps something that cannot be paged.
        SettingsError: an option makes no sense.
        InfeasibleError: a pool is smaller than a page.
    """
    rate = parse_bandwidth(options.link) if isinstance(options.link, str) else options.link
    link_out, link_in = _link(rate), _link(rate)
    made = SessionModel.of(model, page_tokens=options.page_tokens, quantised=options.cache == "int8")
    size = made.layout.page_bytes
    cuda = made.device.type == "cuda"
    device = _bytes(options.device) if options.device is not None else int(DEFAULT_SHARE * _free(made.device))
    host = _bytes(options.host) if options.host is not None else device
    disk = _bytes(options.disk)
    if device < size:
        raise InfeasibleError(f"a device pool of {device} bytes holds no page: one has {size} bytes; give more")
    folder = Path(options.folder) if options.folder is not None else default_cache_dir() / "sessions"
    store = Store(
        Arena(device // size, size, made.device, kept=1),
        Arena(host // size, size, pinned=cuda) if host >= size else None,
        Disk(folder, disk // size, size) if disk >= size else None,
    )
    return SessionManager(
        made,
        store,
        partial(ThreadMover, link_out=link_out, link_in=link_in),
        policy_of(options.policy),
        chunk=options.chunk,
        most=options.batch,
        quotas=dict(options.quotas),
        threaded=options.threaded,
    )


def policy_of(wanted: str | Policy) -> Policy:
    """A policy by name, or the one given."""
    return wanted if isinstance(wanted, Policy) else policy_named(wanted)


def _bytes(size: int | str) -> int:
    number = parse_bytes(size) if isinstance(size, str) else int(size)
    if number < 0:
        raise SettingsError(f"a pool of {number} bytes: give 0 for none, or more")
    return number


def _link(rate: float | None) -> Bucket | None:
    """One direction of the link; None for one that is as fast as memory is."""
    if rate is None:
        return None
    if not (math.isfinite(rate) and rate > 0):
        raise SettingsError(f"a link of {rate} bytes a second carries nothing: give a positive rate")
    return Bucket(DeclaredLink(ends=("device", "host"), bandwidth_bytes_s=rate, latency_s=0.0))


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes() or 4 << 30
