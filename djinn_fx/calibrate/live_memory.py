"""What a call really takes in memory, by torch's own CPU allocator: each allocation and each release, to the byte."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from djinn_fx.srg.graph import tensors_of

_START, _END = "djinn: the call begins", "djinn: the call ends"


@dataclass(frozen=True, kw_only=True)
class Event:
    """An allocation, or a release where the bytes are negative, and which op of the graph asked for it.

    Attributes:
        nbytes: as asked for, before rounding.
        op: number of the outermost op that was running, from 0; that of the last one where none was.
        inside: whether an op was running.
        name: of that op, ``"aten::mm"``; empty before the first one.
    """

    nbytes: int
    op: int
    inside: bool
    name: str


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What one call took.

    Attributes:
        held: bytes there when it began: each storage behind its arguments once.
        events: in the order in which they happened.
    """

    held: int
    events: tuple[Event, ...]

    @property
    def peak(self) -> int:
        """Most bytes in memory at one moment."""
        return self.held + max(accumulate((event.nbytes for event in self.events), initial=0))


def measured(run: Callable[[list[Any]], Any], args: Sequence[Any], given_away: Sequence[int] = ()) -> Truth:
    """Call once and note what is allocated and released meanwhile.

    Args:
        run: takes its arguments in a list.
        args: what it is called with.
        given_away: places of the arguments that nobody else holds: copied first, so that the call may let go of them.
    """
    held = sum({one.data_ptr(): one.nbytes() for one in _storages(args)}.values())
    given: list[Any] = []
    with _quiet(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        given += copied(args, given_away)
        with torch.profiler.record_function(_START):
            pass
        result = run(given)
        with torch.profiler.record_function(_END):
            pass
        del result
    return Truth(held=held, events=tuple(_events(profile)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the collector: what it frees is none of the call's doing."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _storages(args: Sequence[Any]) -> list[torch.UntypedStorage]:
    return [one.untyped_storage() for one in tensors_of(list(args)) if one.layout is torch.strided]


def copied(args: Sequence[Any], places: Sequence[int]) -> list[Any]:
    """The arguments, with those at some places copied; what shared a storage does so again."""
    made: dict[int, torch.UntypedStorage] = {}
    given = list(args)
    for place in places:
        value = given[place]
        if isinstance(value, torch.Tensor):
            old = value.untyped_storage()
            storage = made.setdefault(old.data_ptr(), old.clone())
            given[place] = torch.empty(0, dtype=value.dtype).set_(
                storage, value.storage_offset(), value.shape, value.stride()
            )
    return given


def _events(profile: Any) -> Iterator[Event]:
    found: list[tuple[int, Any, int, bool, str]] = []
    state: dict[str, Any] = {"op": -1, "name": "", "on": False}

    def walk(nodes: Sequence[Any], inside: bool) -> None:
        for node in nodes:
            kind = node.tag.name
            if kind == "Allocation":
                if state["on"]:
                    found.append((node.start_time_ns, node.extra_fields, state["op"], inside, state["name"]))
            elif kind == "TorchOp":
                if node.name in (_START, _END):
                    state["on"] = node.name == _START
                    continue
                if not inside and state["on"]:
                    state.update(op=state["op"] + 1, name=node.name)
                walk(node.children, True)
            else:
                walk(node.children, inside)

    walk(profile.kineto_results.experimental_event_tree(), False)
    for _, fields, op, inside, name in found:
        yield Event(nbytes=fields.alloc_size, op=op, inside=inside, name=name)
