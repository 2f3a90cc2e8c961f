"""Workers that run on a Ray, whichever process started them: found by their names there, and asked how they are."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from djinn_fx.remote.workers.client import NAMESPACE, WorkerClient, WorkerStatus
from djinn_fx.remote.workers.cluster import imported

#: Seconds that a look waits for signs of life; who gives none in that time is not lost by it.
LOOK_S = 2.0
_NAME = re.compile(r"(worker:[0-9]{1,3})@([0-9]{1,20})")


def name_on_ray(name: str, incarnation: int) -> str:
    """What a worker is called on its Ray, where other processes may have workers of the same name."""
    return f"{name}@{incarnation}"


def workers_there(timeout_s: float) -> tuple[WorkerClient, ...]:
    """All workers on the Ray that this process is connected to, in the order of their start.

    Args:
        timeout_s: how long each may be silent.
    """
    ray = imported()
    found = []
    for one in imported("ray.util").list_named_actors(all_namespaces=True):
        match = _NAME.fullmatch(one["name"]) if one["namespace"] == NAMESPACE else None
        if match is None:
            continue
        try:
            actor = ray.get_actor(one["name"], namespace=NAMESPACE)
        except ValueError:  # it ended since
            continue
        found.append(WorkerClient(match[1], actor, int(match[2]), timeout_s))
    return tuple(sorted(found, key=lambda one: one.incarnation))


def look(workers: Sequence[WorkerClient], timeout_s: float = LOOK_S) -> tuple[WorkerStatus, ...]:
    """Workers now: all are asked at once, and none is given up.

    One that does not answer in that time is told as it was known last, with the reason in ``why``.

    Args:
        workers: lost ones are not asked.
        timeout_s: to wait for all.
    """
    ray = imported()
    asked = {one.sign_of_life(): one for one in workers if not one.lost}
    ready = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)[0] if asked else []
    silent = {id(one): f"no sign of life within {timeout_s:g} s" for one in asked.values()}
    for ref in ready:
        try:
            asked[ref].note(json.loads(ray.get(ref)))
            del silent[id(asked[ref])]
        except ray.exceptions.RayError as error:
            silent[id(asked[ref])] = f"its process does not answer ({type(error).__name__})"
    return tuple(
        replace(one.status(), alive=False, why=silent[id(one)]) if id(one) in silent else one.status()
        for one in workers
    )
