"""A model's weights under a budget: lent for one operator at a time, from memory, from the ring, or from the file."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from djinn_fx import threads
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.offload.places import HostMemory, reader
from djinn_fx.runtime.offload.plan import SMALL_BYTES, Residency, Room
from djinn_fx.runtime.offload.ring import Ring
from djinn_fx.runtime.offload.shards import BLOCK, Shards, new_memory, span_of
from djinn_fx.runtime.offload.stored import StoredTensor
from djinn_fx.units import format_bytes

#: Calls of the model that are remembered.
_PASSES = 256


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One call of the model.

    Attributes:
        read_bytes: read from files meanwhile, what was read ahead for the next call too.
        seconds: that it took.
        waited_s: of these, how long operators waited for a weight.
        peak_bytes: the most that the process was seen to hold, looked at before each large weight's use.
    """

    read_bytes: int
    seconds: float
    waited_s: float
    peak_bytes: int


class Weights:
    """The weights, where the plan says that they are.

    Args:
        stored: by key, in the order in which they are expected to be used.
        dtypes: their element types.
        shards: their files.
        plan: what stays and what passes through.
        room: the budget.
        place: where they are used.

    Attributes:
        passes: the last calls of the model.
        reasons: why weights that were to stay did not.
        load_rate: bytes a second at which what stays was read; 0 if that was nothing.
    """

    def __init__(
        self,
        stored: Sequence[StoredTensor],
        dtypes: Sequence[torch.dtype],
        shards: Shards,
        plan: Residency,
        room: Room,
        place: HostMemory,
    ) -> None:
        self.stored, self.dtypes, self.shards = tuple(stored), tuple(dtypes), shards
        self.plan, self.room, self.place = plan, room, place
        self.sizes = {key: span_of(one.start, one.size)[1] for key, one in enumerate(self.stored)}
        self.passes: deque[Pass] = deque(maxlen=_PASSES)
        self.reasons: list[Reason] = []
        self._alone, self._loose = threads.new_rlock(), threads.new_rlock()
        self._depth, self._log = 0, list[int]()
        self._waited_s, self._peak = 0.0, 0
        self._bound = self.place.held() + room.budget - room.held
        self._pinned = {key: self._load(key) for key in plan.pinned}
        self.load_rate = shards.read_bytes / shards.read_s if shards.read_s else 0.0
        self.ring: Ring | None = None
        if plan.streamed:
            self._ring_memory, read = place.new(plan.ring_bytes), reader(place, shards, self.stored)
            self.ring = Ring(plan.ring_bytes, self.sizes, plan.streamed, read, self._ring_memory)

    # -- lending -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lease(self, key: int) -> Iterator[torch.Tensor]:
        """The weight, for as long as the context lasts: its memory is another weight's afterwards.

        Raises:
            ModelFileError: its file has changed or cannot be read.
        """
        if self.sizes[key] > SMALL_BYTES:
            self._make_room()
        if self._depth:
            self._log.append(key)
        kept = self._pinned.get(key)
        if kept is not None:
            yield kept
            return
        if self.ring is not None and self.sizes[key] <= self.ring.size:
            begun = time.perf_counter()
            with self.ring.lease(key) as place:
                self._waited_s += time.perf_counter() - begun
                if place is not None:
                    try:
                        yield self._view(key, self._ring_memory, place)
                    finally:
                        self.place.let_go()
                    return
        with self._loose:  # one at a time, for it is beside what the plan counts
            yield self._load(key)

    def stays(self, key: int) -> bool:
        """Whether a weight is in memory."""
        return key in self._pinned

    def rows(self, key: int, rows: Sequence[int]) -> torch.Tensor:
        """Some rows of a weight, read from its file alone.

        Raises:
            ModelFileError: as for :meth:`lease`.
        """
        one = self.stored[key]
        each = one.size // one.shape[0]
        found = torch.empty((len(rows), each), dtype=torch.uint8)
        memory = new_memory(each + 2 * BLOCK)
        source = torch.frombuffer(memory, dtype=torch.uint8)
        for place, row in enumerate(rows):
            begins = self.shards.read(one.file, one.start + row * each, each, memoryview(memory))
            assert begins is not None
            found[place].copy_(source[begins : begins + each])
        return found.view(self.dtypes[key]).view(len(rows), *one.shape[1:]).to(self.place.device)

    def _load(self, key: int) -> torch.Tensor:
        """A weight in memory of its own."""
        memory = self.place.new(self.sizes[key])
        begins = self.place.read(self.shards, self.stored[key], memory)
        assert begins is not None
        return self._view(key, memory, begins)

    def _view(self, key: int, memory: torch.Tensor, begins: int) -> torch.Tensor:
        one, dtype = self.stored[key], self.dtypes[key]
        if not one.size:
            return torch.empty(one.shape, dtype=dtype, device=self.place.device)
        raw = memory[begins : begins + one.size]
        if begins % dtype.itemsize:  # a file whose writer did not align its tensors
            raw = raw.clone()
        return raw.view(dtype).view(one.shape)

    # -- calls of the model --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def one_pass(self) -> Iterator[None]:
        """A call of the model: one at a time, since two at once would each read everything.

        Raises:
            ModelFileError: a file is not what it was, before or after: then there is no answer.
        """
        with self._alone:
            if self._depth:
                yield
                return
            self.shards.check()
            self._log, self._peak, waited_s = [], self.place.held(), self._waited_s
            before, begun = self.shards.read_bytes, time.perf_counter()
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0
            self.shards.check()
            self._follow(self._log)
            self.passes.append(
                Pass(
                    read_bytes=self.shards.read_bytes - before,
                    seconds=time.perf_counter() - begun,
                    waited_s=self._waited_s - waited_s,
                    peak_bytes=max(self._peak, self.place.held()),
                )
            )

    def _follow(self, order: Sequence[int]) -> None:
        """Expect the next call to use weights as this one did."""
        if self.ring is not None:
            self.ring.follow([key for key in order if key not in self._pinned and self.sizes[key] <= self.ring.size])

    def _make_room(self) -> None:
        """Let weights go that were to stay, where activations and caches have grown beyond what was kept for them."""
        held = self.place.held()
        self._peak = max(self._peak, held)
        if held <= self._bound:
            return
        self.place.give_back()
        over = self.place.held() - self._bound
        for key in sorted(self._pinned, key=lambda k: -self.sizes[k]):
            if over <= 0:
                return
            if self.sizes[key] <= SMALL_BYTES or (self.ring is not None and self.sizes[key] > self.ring.size):
                continue
            del self._pinned[key]
            over -= self.sizes[key]
            detail = f"{format_bytes(self.sizes[key])} are read on every call from now on: activations and caches grew"
            self.reasons.append(Reason(kind=ReasonKind.EVICTED, detail=detail, node=self.stored[key].name))

    @property
    def pinned_bytes(self) -> int:
        """What stays in memory now."""
        return sum(self.sizes[key] for key in list(self._pinned))
