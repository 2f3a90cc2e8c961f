"""The client's side of ``larger.py``: a model over two workers, each of which may hold less than the model."""

from __future__ import annotations

import time
from typing import Any

import torch

import djinn_fx
from bench.memory.budget_child import mapped
from djinn_fx.compiling.workers.spread import workers_of
from djinn_fx.hardware.workers import part_bytes
from djinn_fx.remote.workers.pool import close_all
from djinn_fx.settings.table import Settings


class Client:
    """A client with a model, and workers. It maps the weights from their files, so that the system may let them go.

    Args:
        folder: with the weights.
        quick: the small model.
        budget: bytes that each worker's process may hold.
        engine: as the setting.
    """

    def __init__(self, folder: str, quick: bool, budget: int, engine: str) -> None:
        self.options = {
            "workers": "local:2",
            "worker_memory": f"{part_bytes(budget)}B",
            "engine": engine,
            "verify": "off",
        }
        self.model = mapped(folder, quick, budget)
        self._run = torch.compile(self.model.forward, backend="djinn", options=self.options)

    def pids(self) -> list[int]:
        """Start the workers; their processes."""
        pool = workers_of(Settings.load(options=self.options)).pool
        return [one.pid for one in pool.status().values()]

    def eager(self, length: int, more: int) -> dict[str, Any]:
        """Tokens without djinn; see :meth:`answer`."""
        return self._answered(self.model.forward, length, more)

    def answer(self, length: int, more: int) -> dict[str, Any]:
        """Tokens for a prompt: the first one's seconds, then those of each further one, one at a time."""
        return self._answered(self._run, length, more)

    @torch.no_grad()
    def _answered(self, run: Any, length: int, more: int) -> dict[str, Any]:
        from transformers import StaticCache

        given = torch.randint(5, 8000, (1, length), generator=torch.Generator().manual_seed(length))
        cache = StaticCache(config=self.model.config, max_cache_len=length + more + 1)
        seconds, tokens = [], []
        for _ in range(1 + more):
            begun = time.perf_counter()
            made = run(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            seconds.append(time.perf_counter() - begun)
            given = made.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(int(given))
        return {"seconds": seconds, "tokens": tokens}

    def held(self) -> dict[str, Any]:
        """What each worker holds, which engines serve there, and what was decided of the graphs."""
        status = workers_of(Settings.load(options=self.options)).pool.status()
        found = djinn_fx.compilations()
        return {
            "workers": {
                name: {"alive": one.alive, "weights": one.weight_bytes, "state": one.state_bytes, "why": one.why}
                for name, one in status.items()
            },
            "devices": [[region.device for region in one.plan.regions] for one in found],
            "engines": [[build.engine for build in one.builds] for one in found],
            "reasons": [str(reason) for one in found for reason in one.reasons][:40],
        }

    def close(self) -> None:
        """End the workers."""
        close_all()
