"""What a value takes from here to a worker, by the clock."""

from __future__ import annotations

import statistics
import time

import torch

from djinn_fx.hardware.workers import WorkerLink
from djinn_fx.remote.wire.frame import encode
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.client import WorkerClient

#: What is sent to know the bandwidth.
PROBE_BYTES = 4 * 2**20
_TIMES = 7


def measured_link(worker: WorkerClient) -> WorkerLink:
    """A worker's link: the median of a few empty requests, and what a large one takes longer.

    Raises:
        DeviceLostError: the worker is lost.
        EngineError: it has no room for the probe.
    """
    empty_s = _median(worker, requests.STATUS, lambda: encode(requests.STATUS, {}))
    probe = {"probe": payload_of(torch.empty(PROBE_BYTES, dtype=torch.uint8))}
    versions = {"versions": {"probe": 1}}
    full_s = _median(worker, requests.STATE, lambda: encode(requests.STATE, versions, probe, digests=False))
    worker.ask([(requests.RELEASE, encode(requests.RELEASE, {"weights": [], "states": ["probe"]}))]).wait()
    # A request and its answer: half of that is one way.
    return WorkerLink(
        latency_s=empty_s / 2,
        bandwidth_bytes_s=PROBE_BYTES / max(full_s - empty_s, 1e-6),
        source="measured when the workers were started",
    )


def _median(worker: WorkerClient, kind: str, frame: object) -> float:
    assert callable(frame)
    times = []
    for _ in range(_TIMES):
        begun = time.perf_counter()
        worker.ask([(kind, frame())]).wait()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
