"""The client's side of ``run.py``: models over two workers behind a declared link."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import djinn_fx
from bench.harness.models import build
from djinn_fx.compiling.workers.spread import workers_of
from djinn_fx.remote.graphs.executor import OverWorkers
from djinn_fx.remote.workers.pool import Wanted, close_all, pool_of
from djinn_fx.settings.devices import DeclaredLink
from djinn_fx.settings.table import Settings

_BUILD = "djinn_fx.compiling.workers.running:build"
#: Calls before any is timed.
_WARM = 12


class Client:
    """A client of two workers.

    Args:
        bandwidth_bytes_s: of the link before each worker; 0: none is declared.
        latency_s: of it.
        quick: models in their small form.
        engine: as the setting.
    """

    def __init__(self, bandwidth_bytes_s: float, latency_s: float, quick: bool, engine: str) -> None:
        self._quick = quick
        self._options = {"workers": "local:2", "engine": engine, "verify": "off"}
        link = DeclaredLink(ends=("", ""), bandwidth_bytes_s=bandwidth_bytes_s, latency_s=latency_s)
        pool_of("local:2", Wanted(build=_BUILD, link=link if bandwidth_bytes_s else None))
        self._links = workers_of(Settings.load(options=self._options)).links

    def links(self) -> dict[str, Any]:
        """As they were measured."""
        return {name: [one.bandwidth_bytes_s, one.latency_s] for name, one in self._links.items()}

    def model(self, name: str, calls: int) -> dict[str, Any]:
        """Calls of a model whose first layers are on one worker, and the others on the other one.

        Returns:
            Seconds of each call, what the plan says of one, and what the workers were at work in one.
        """
        torch._dynamo.reset()
        gc.collect()
        model, inputs, _ = build(name, self._quick)
        path, layers = next((path, one) for path, one in model.named_modules() if isinstance(one, nn.ModuleList))
        half, last = len(layers) // 2, len(layers) - 1
        pin = {f"{path}.0-{half - 1}": "worker:0", f"{path}.{half}-{last}": "worker:1"}
        run = torch.compile(model, backend="djinn", options={**self._options, "pin": pin})
        for one in _over_workers():
            one.seconds.clear()
        times, worked = [], []
        with torch.no_grad():
            for _ in range(_WARM):
                given = run(**inputs)
            before = djinn_fx.compilations()[-1].plan.placement
            del run  # planned again, by the times that the parts took
            torch._dynamo.reset()
            gc.collect()
            for one in _over_workers():
                one.seconds.clear()
            run = torch.compile(model, backend="djinn", options={**self._options, "pin": pin})
            for _ in range(_WARM):
                given = run(**inputs)
            (over,) = [one for one in _over_workers() if one.seconds]
            for _ in range(calls):
                begun = time.perf_counter()
                given = run(**inputs)
                times.append(time.perf_counter() - begun)
                worked.append(sum(over.seconds.values()))
        plan = djinn_fx.compilations()[-1].plan
        assert plan.placement is not None
        assert before is not None
        first, final = (self._links[plan.placement.shares[at].device] for at in (0, -1))
        sizes = [sum(one.nbytes for one in tree_leaves(dict(what)) if isinstance(one, torch.Tensor))
                 for what in (inputs, given)]  # fmt: skip
        ends = sum(
            link.latency_s + size / link.bandwidth_bytes_s for link, size in zip((first, final), sizes, strict=True)
        )
        del run, over
        return {
            "seconds": times,
            "worked": statistics.median(worked),
            "computing_at_first": sum(share.time_s for share in before.shares),
            "computing": sum(share.time_s for share in plan.placement.shares),
            "passing": sum(one.time_s for one in plan.placement.passages),
            "ends": ends,
            "devices": [region.device for region in plan.regions],
            "bytes": [*sizes, sum(one.nbytes for one in plan.placement.passages)],
        }

    def close(self) -> None:
        """End the workers."""
        close_all()


def _over_workers() -> list[OverWorkers]:
    return [one for one in gc.get_objects() if type(one) is OverWorkers]
