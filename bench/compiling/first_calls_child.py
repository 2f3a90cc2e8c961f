"""What bench/compiling/first_calls.py runs in a process of its own: the first calls of a model, one by one."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

import torch

import djinn_fx
from bench.harness.measuring import time_calls
from bench.harness.models import backend_of, build, result
from djinn_fx.pool.procfs import resident_bytes

#: An answer is wrong if it differs from eager's by more than this share of eager's largest value.
TOLERANCE = 1e-4


@torch.no_grad()
def calls(side: str, model: str, quick: bool, count: int) -> dict[str, Any]:
    """Make a model, run it eagerly twice, then compile it and call it so many times.

    Args:
        side: a backend's name, with its default options; ``"eager"`` is Dynamo alone, ``"none"`` the model itself.
        model: see :func:`bench.harness.models.build`.
        quick: its small form.
        count: calls.

    Returns:
        ``seconds`` of each call, the first from ``torch.compile`` on; eager's first and second call before that; the
        call from which on djinn's trials are decided; bytes of the process and of the weights; whether all answers
        looked at are eager's.
    """
    net, inputs, _ = build(model, quick)
    eager_s = time_calls(lambda: net(**inputs), 3)
    same = _Same(result(net(**inputs)))
    before = resident_bytes(os.getpid())
    seconds, wrong, decided = [], 0, None
    compiled = net
    for number in range(1, count + 1):
        start = time.perf_counter()
        if number == 1 and side != "none":
            compiled = torch.compile(net, backend=backend_of(side))
        answer = compiled(**inputs)
        seconds.append(time.perf_counter() - start)
        wrong += not same(result(answer))
        if side == "djinn" and decided is None and _decided(compiled):
            decided = number
    return {
        "seconds": seconds,
        "eager_s": eager_s,
        "decided": decided,
        "wrong": wrong,
        "resident_bytes": resident_bytes(os.getpid()) - before,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "weight_bytes": sum(one.nbytes for one in net.parameters()),
        "status": str(djinn_fx.status(compiled)) if side == "djinn" else "",
    }


def _decided(compiled: Any) -> bool:
    """Whether an engine serves by the outcome of a trial: none is under way, nothing is being loaded."""
    status = djinn_fx.status(compiled)
    loading = status.unplanned or status.loading or not status.contests
    return not loading and not any(contest.trial for contest in status.contests)


class _Same:
    """Whether answers are eager's, told without memory of its own in each call: what is held is to be the model's."""

    def __init__(self, expected: torch.Tensor) -> None:
        self._expected, self._difference = expected.clone(), torch.empty_like(expected)
        self._most = TOLERANCE * float(expected.abs().max().clamp(min=1e-30))

    def __call__(self, found: torch.Tensor) -> bool:
        torch.sub(found, self._expected, out=self._difference)
        return float(self._difference.abs_().max()) <= self._most
