"""A bench's steps, each in a child process of its own with empty caches; one that fails is told and left out."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness.harness import ChildFailedError, Journal, call_child, fresh_caches

Found = dict[str, Any]


def in_children(
    steps: Mapping[str, Found], target: str, journal: Journal, failed: dict[str, str], *, timeout_s: float
) -> Iterator[Any]:
    """What a function gave in each step that did not fail, as soon as it is there.

    Args:
        steps: the function's arguments, by the step's name.
        target: the function, as ``"module:name"``.
        journal: of the bench: a step that is done is not done again.
        failed: filled with the last line of each error, by the step's name.
        timeout_s: seconds for one step.
    """
    for name, given in steps.items():
        done = journal.once(name, functools.partial(_outcome, target, given, timeout_s))
        if "failed" in done:
            failed[name] = done["failed"]
            print(f"{name}: {done['failed']}", flush=True)
        else:
            yield done["result"]


def _outcome(target: str, given: Found, timeout_s: float) -> Found:
    with fresh_caches() as caches:
        try:
            return {"result": call_child(target, given, caches, timeout_s=timeout_s)}
        except ChildFailedError as error:
            return {"failed": str(error).strip().splitlines()[-1][:300]}
