"""Stands in for CUDA devices: tensors are the processor's, streams and events take notes of what happens after what.

Under :class:`Watching` every op is one of the stream that is current, and it is seen to it that

* what an op reads or writes over was written, and what it writes over was read, before it in the order of streams;
* memory that a stream uses and another one allocated is kept for it, or held until the caller's stream waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from djinn_fx.runtime.devices.cuda.driver import Driver, Present

Clock = dict["Stream", int]


def merged(clock: Clock, other: Clock) -> None:
    for stream, count in other.items():
        clock[stream] = max(clock.get(stream, 0), count)


class Stream:
    def __init__(self, notes: Notes, name: str) -> None:
        self.notes, self.name = notes, name
        self.clock: Clock = {}

    def wait_event(self, event: Event) -> None:
        self.notes.log.append(("wait", self.name, event.number))
        merged(self.clock, event.clock)

    def tick(self) -> None:
        self.clock[self] = self.clock.get(self, 0) + 1

    def __repr__(self) -> str:
        return self.name


class Event:
    def __init__(self, notes: Notes) -> None:
        notes.events += 1
        self.notes, self.number, self.happened = notes, notes.events, True
        self.clock: Clock = {}

    def record(self, stream: Stream) -> None:
        self.notes.log.append(("record", stream.name, self.number))
        self.clock = dict(stream.clock)

    def query(self) -> bool:
        if self.happened:  # then the host knows, and with it all that it begins from now on
            merged(self.notes.host, self.clock)
        return self.happened


class Notes(Driver):
    """Devices of notes.

    Args:
        count: how many.
        apart: pairs of devices that cannot read each other's memory.
    """

    def __init__(self, count: int = 2, apart: frozenset[tuple[int, int]] = frozenset()) -> None:
        self.count, self.apart = count, apart
        self.log: list[tuple[str, str, int]] = []
        self.events = 0
        self.caller = Stream(self, "caller")
        self.made: dict[int, int] = {}
        self.kept: set[tuple[int, Stream]] = set()
        self.pieces: list[torch.Tensor] = []
        self.host: Clock = {}
        self.capturing = False
        self.lost: tuple[type[BaseException], ...] = ()
        self._current = threading.local()

    def present(self) -> tuple[Present, ...]:
        return tuple(Present(title="NVIDIA H100 80GB HBM3", memory_bytes=80 * 10**9) for _ in range(self.count))

    def peers(self, one: int, other: int) -> bool:
        return (one, other) not in self.apart

    def device(self, index: int) -> torch.device:
        return torch.device("cpu")

    def use(self, index: int) -> None:
        self.log.append(("use", threading.current_thread().name, index))

    def new_stream(self, index: int) -> Stream:
        number = self.made.get(index, 0)
        self.made[index] = number + 1
        return Stream(self, f"{('compute', 'copy')[number]}{index}" if number < 2 else f"stream{number}")

    def new_event(self) -> Event:
        return Event(self)

    def current_stream(self, index: int) -> Stream:
        return self.current[-1]

    @property
    def current(self) -> tuple[Stream, ...]:
        """The streams of the innermost ``on``."""
        return getattr(self._current, "streams", (self.caller,))

    @contextlib.contextmanager
    def on(self, *streams: Stream) -> Iterator[None]:
        before, self._current.streams = self.current, streams
        try:
            yield
        finally:
            self._current.streams = before

    def keep(self, value: Any, stream: Stream) -> None:
        if isinstance(value, torch.Tensor):
            self.kept.add((memory(value), stream))

    def pinned(self, nbytes: int) -> torch.Tensor:
        self.pieces.append(torch.empty(nbytes, dtype=torch.uint8))
        return self.pieces[-1]

    def is_capturing(self) -> bool:
        return self.capturing

    def is_lost(self, error: BaseException) -> bool:
        return isinstance(error, self.lost)


def memory(value: torch.Tensor) -> int:
    return value.untyped_storage()._cdata


class Watching(TorchDispatchMode):
    """Sees every op of this thread.

    Args:
        notes: the devices.
        held: tensors that the caller holds until the call is over.

    Attributes:
        faults: what was read or written too early, in words.
    """

    def __init__(self, notes: Notes, held: list[torch.Tensor]) -> None:
        super().__init__()
        self._notes = notes
        self._held = {memory(one) for one in held}
        self._alive: list[Any] = list(held)  # so that no memory is used twice
        self._home: dict[int, Stream] = {memory(one): notes.caller for one in held}
        self._written: dict[int, Clock] = {}
        self._read: dict[int, list[tuple[Stream, int]]] = {}
        self._used: set[tuple[int, Stream]] = set()
        self.faults: list[str] = []
        notes.caller.tick()
        for one in held:
            self._written[memory(one)] = {notes.caller: notes.caller.clock[notes.caller]}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        made = [one for one in pytree.tree_leaves(result) if isinstance(one, torch.Tensor)]
        self._alive += [*given, *made]
        before = {memory(one) for one in given}
        fresh = [one for one in made if memory(one) not in before]
        allocating, streams = self._notes.current[-1], self._notes.current
        for one in fresh:
            self._home.setdefault(memory(one), allocating)
        if func.is_view or func is torch.ops.aten.detach.default or "empty" in str(func):
            return result
        stream = streams[0]
        for other in streams[1:]:  # a copy from device to device waits for both sides
            merged(stream.clock, other.clock)
        merged(stream.clock, self._notes.host)
        stream.tick()
        schema = [one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments]
        written = {memory(one) for one, write in zip(args, schema, strict=False) if write and torch.is_tensor(one)}
        for place in before:
            self._look(func, place, stream, writes=place in written)
            if place in written and len(streams) > 1:  # the target's stream goes on when the copy is over
                self._used.discard((place, stream))
        for one in fresh:
            self._look(func, memory(one), stream, writes=True)
        for other in streams[1:]:
            merged(other.clock, stream.clock)
        if func is torch.ops.aten.equal.default:
            merged(self._notes.host, stream.clock)
        return result

    def _look(self, func: Any, place: int, stream: Stream, *, writes: bool) -> None:
        now = stream.clock[stream]
        for other, count in self._written.get(place, {}).items():
            if stream.clock.get(other, 0) < count:
                self.faults.append(f"{func} on {stream} before a write on {other} is over")
        if writes:
            for other, count in self._read.pop(place, []):
                if stream.clock.get(other, 0) < count:
                    self.faults.append(f"{func} on {stream} over what {other} reads")
            self._written[place] = {stream: now}
        else:
            self._read.setdefault(place, []).append((stream, now))
        self._used.add((place, stream))

    def unkept(self) -> list[str]:
        """Memory that was used on another stream than its own, without the allocator's being told."""
        pinned = {memory(one) for one in self._notes.pieces}
        return [
            f"memory of {self._home[place]} used on {stream}"
            for place, stream in self._used
            if place not in self._held | pinned
            and self._home.get(place, stream) is not stream
            and (place, stream) not in self._notes.kept
        ]
