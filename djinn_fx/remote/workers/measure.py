"""What a value takes from here to a worker, by the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch

from djinn_fx.hardware.workers import WorkerLink
from djinn_fx.remote.wire.codecs import known
from djinn_fx.remote.wire.frame import encode
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.client import Over, WorkerClient

#: What is sent to know the bandwidth.
PROBE_BYTES = 4 * 2**20
_TIMES = 7


def learned_links(workers: Mapping[str, WorkerClient]) -> dict[str, WorkerLink]:
    """Each worker's link, by the clock. What goes over it is packed from now on where that is sooner there.

    Raises:
        DeviceLostError: a worker is lost.
        EngineError: its machine has no memory for the probe.
    """
    found = {name: measured_link(worker) for name, worker in workers.items()}
    # Workers read what others pass on to them too.
    codecs = tuple(name for name in known() if all(name in worker.codecs for worker in workers.values()))
    if codecs:
        for name, link in found.items():
            over = Over(latency_s=link.latency_s, bandwidth_bytes_s=link.bandwidth_bytes_s, codecs=codecs)
            workers[name].packs(over)
    return found


def measured_link(worker: WorkerClient) -> WorkerLink:
    """A worker's link: the median of a few empty requests, and what a large one takes longer.

    Raises:
        DeviceLostError: the worker is lost.
        EngineError: its machine has no memory for the probe.
    """
    empty_s = _median(worker, {})
    full_s = _median(worker, {"probe": payload_of(torch.empty(PROBE_BYTES, dtype=torch.uint8))})
    # A request and its answer: half of that is one way.
    return WorkerLink(
        latency_s=empty_s / 2,
        bandwidth_bytes_s=PROBE_BYTES / max(full_s - empty_s, 1e-6),
        source="measured from the client to each worker",
    )


def _median(worker: WorkerClient, tensors: Mapping[str, Payload]) -> float:
    """Seconds of a request with these."""
    times = []
    for _ in range(_TIMES):
        begun = time.perf_counter()
        worker.ask([(requests.PROBE, encode(requests.PROBE, {}, tensors, digests=False))]).wait()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
