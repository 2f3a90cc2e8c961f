"""What a worker holds for this process: graphs, weights by digest, and what graphs write; as far as is known here."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.remote.delta.messages import Answer, Message, Needs, Ready, Refuses, Weights, from_frame, to_frame
from djinn_fx.remote.delta.sender import Sender
from djinn_fx.remote.wire.frame import Frame, encode
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.client import Pieces, WorkerClient, next_incarnation
from djinn_fx.threads import new_rlock

#: Graphs that a worker is known to have, of which changes are counted.
HISTORY = 64
#: How often a worker may ask for what it lacks before that counts as an error.
_ROUNDS = 8
#: Weights that are under way at once.
REQUEST_BYTES = 64 * 2**20

_NAMES = itertools.count()


class State:
    """A tensor of the caller's that a graph writes, of which a worker has a copy.

    Attributes:
        name: of the copy.
        version: of the copy; None: it is not known what is in there.
        seen: torch's count of writes into the tensor when the copy was equal to it; None: it counts none.
    """

    def __init__(self) -> None:
        self.name = f"s{next(_NAMES)}"
        self.version: int | None = None
        self.seen: int | None = None


class Holding:
    """What is known of one worker. Used by one call at a time (:attr:`lock`).

    Args:
        worker: the one.
    """

    def __init__(self, worker: WorkerClient) -> None:
        self.worker, self.lock = worker, new_rlock()
        self._sender = Sender(next_incarnation(), history=HISTORY)
        self._users: Counter[str] = Counter()
        self._states: dict[tuple[Any, ...], tuple[weakref.ref[Any], State]] = {}
        self._versions = itertools.count(1)
        self._unused: deque[Sequence[str]] = deque()
        self._states_to_release: list[str] = []

    # Graphs and their weights

    def send(self, graph: GraphForm, payloads: Mapping[str, Payload]) -> None:
        """See to it that the worker has a graph with its weights.

        Raises:
            DeviceLostError: it is lost.
            EngineError: it refuses.
        """
        messages: list[Message] = self._sender.update(graph, payloads)
        for _ in range(_ROUNDS):
            answers = self._exchanged(messages)
            messages = [one for answer in answers for one in self._sender.receive(answer)]
            if self._sender.ready:
                self._sender.settled()
                return
            if not messages:
                messages = self._sender.again()
        raise EngineError(f"{self.worker.name} asks again and again for what it was sent")

    def _exchanged(self, messages: Sequence[Message]) -> list[Answer]:
        found = []
        for group in _grouped([(one.kind, to_frame(self._packed(one))) for one in messages]):
            for frame in self.worker.ask(group).wait():
                answer = from_frame(frame)
                if isinstance(answer, (Ready, Needs, Refuses)):
                    found.append(answer)
        return found

    def _packed(self, message: Message) -> Message:
        if not isinstance(message, Weights):
            return message
        return replace(message, payloads=self.worker.packed(message.payloads))

    def use(self, names: Sequence[str]) -> None:
        """Weights are in use by one graph more."""
        self._users.update(names)

    def unused(self, names: Sequence[str]) -> None:
        """... by one less; those that nobody uses are let go of with the next request.

        Garbage may be collected in any thread, in the middle of anything: this waits for no lock.
        """
        self._unused.append(names)

    def releases(self) -> Iterator[tuple[str, Pieces]]:
        """A request to let go of what nobody uses any more, if there is such."""
        with self.lock:
            unused: list[str] = []
            while self._unused:
                unused += self._unused.popleft()
            self._users.subtract(unused)
            names = [name for name in dict.fromkeys(unused) if self._users[name] <= 0]
            states, self._states_to_release = self._states_to_release, []
        if names or states:
            self._sender.released(names)
            for name in names:
                del self._users[name]
            yield requests.RELEASE, encode(requests.RELEASE, {"weights": names, "states": states})

    # What graphs write

    def state_of(self, tensor: torch.Tensor) -> State:
        """The copy of a tensor, whether or not it is there yet."""
        storage = tensor.untyped_storage()
        key = (storage.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        known = self._states.get(key)
        if known is not None and known[0]() is storage:
            return known[1]
        if known is not None:
            self._states_to_release.append(known[1].name)
        made = State()
        self._states[key] = weakref.ref(storage, lambda _: self._gone(key, made.name)), made
        return made

    def _gone(self, key: tuple[Any, ...], name: str) -> None:
        held = self._states.get(key)
        if held is not None and held[1].name == name:
            del self._states[key]
        self._states_to_release.append(name)

    def stale(self, state: State, tensor: torch.Tensor, raised: bool = False) -> bool:
        """Whether the worker's copy is not known to be what the tensor is now.

        Args:
            state: the copy.
            tensor: the caller's.
            raised: whether its count of writes was raised by one since, without a write.
        """
        return state.version is None or state.seen is None or state.seen + raised != count_of(tensor)

    def sending(self, states: Mapping[str, tuple[State, torch.Tensor]]) -> tuple[str, Pieces]:
        """The request that takes tensors to their copies."""
        payloads: dict[str, Payload] = {}
        versions: dict[str, int] = {}
        for name, (state, tensor) in states.items():
            state.seen = count_of(tensor)
            state.version = versions[name] = next(self._versions)
            payloads[name] = payload_of(tensor)
        packed = self.worker.packed(payloads)
        return requests.STATE, encode(requests.STATE, {"versions": versions}, packed, digests=False)

    def next_version(self) -> int:
        """Of a state that a call writes."""
        return next(self._versions)


def _grouped(frames: Sequence[tuple[str, Pieces]]) -> Iterator[list[tuple[str, Pieces]]]:
    """Frames in requests that Ray's object store has room for."""
    group: list[tuple[str, Pieces]] = []
    size = 0
    for kind, pieces in frames:
        nbytes = sum(len(piece) for piece in pieces)
        if group and size + nbytes > REQUEST_BYTES:
            yield group
            group, size = [], 0
        group.append((kind, pieces))
        size += nbytes
    if group:
        yield group


def count_of(tensor: torch.Tensor) -> int | None:
    """Torch's count of writes into a tensor; None for one that has none (of inference mode)."""
    return None if tensor.is_inference() else tensor._version


def failed(frames: Sequence[Frame], kind: str) -> EngineError | None:
    """An error, if the last answer is not of a kind."""
    if frames and frames[-1].kind == kind:
        return None
    return EngineError(f"a worker answered {frames[-1].kind if frames else 'nothing'} where {kind} was expected")
