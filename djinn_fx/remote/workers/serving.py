"""What a worker does with the frames that come to it. Frames in, frames out; it knows neither Ray nor a clock."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from djinn_fx.errors import DjinnError, EngineError, useful_line
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.remote.delta.messages import Answer, Delta, Full, Message, Refuses, Weights, from_frame, to_frame
from djinn_fx.remote.delta.receiver import WEIGHT_BYTES, Receiver
from djinn_fx.remote.wire.carried import Carried, kept
from djinn_fx.remote.wire.choice import Packer
from djinn_fx.remote.wire.codecs import known
from djinn_fx.remote.wire.frame import Frame, decode, encode
from djinn_fx.remote.wire.limits import LIMITS, Limits
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.requests import Call, Written, call_of, link_of, names_of
from djinn_fx.srg.form.hashing import digest

log = logging.getLogger("djinn_fx.remote")

#: Graphs, and what was compiled of them, that are kept.
KEPT = 64


class Running(Protocol):
    """A graph that a worker compiled.

    Attributes:
        told: for the client: a JSON object.
        writes: inputs that a call writes into.
        copied_bytes: what engines keep of the weights besides these, now.
    """

    told: Mapping[str, Any]
    writes: tuple[int, ...]

    @property
    def copied_bytes(self) -> int:
        """See above."""
        ...

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Its outputs; empties the list."""
        ...


#: Compiles a graph: the form, and what else is to be known of it (a JSON object, which it checks).
Build = Callable[[GraphForm, Mapping[str, Any]], Running]


class _State:
    """What a graph writes and the worker keeps: a tensor of its own, and which version of it this is."""

    def __init__(self, tensor: torch.Tensor, version: int) -> None:
        self.tensor, self.version = tensor, version

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.itemsize


class Serving:
    """One client's worker.

    Args:
        build: compiles graphs.
        incarnation: of the worker; higher than that of any before it.
        memory_bytes: what weights, engines' copies of them and state of all models may take together; what was used
            least recently goes for what comes, and is sent again when it is wanted. A function tells it of what they
            take now.
        limits: of frames.
    """

    def __init__(
        self,
        build: Build,
        incarnation: int,
        *,
        memory_bytes: int | Callable[[int], int] | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.incarnation = incarnation
        self._build, self._limits = build, limits
        self._bound = memory_bytes if memory_bytes is not None else WEIGHT_BYTES
        self._receiver = Receiver(incarnation, graphs=KEPT, weight_bytes=WEIGHT_BYTES, limits=limits)
        self._states: OrderedDict[str, _State] = OrderedDict()  # the one that was used last is the last
        self._made: OrderedDict[str, Running] = OrderedDict()
        self._packer: Packer | None = None

    # What it is asked

    def take(self, frames: Sequence[Any]) -> list[Carried]:
        """Answer requests one after the other. Raises nothing: what goes wrong is an answer."""
        return [kept(answer) for frame in frames for answer in self._answered(frame)]

    def relay(self, frame: Any, upstream: Sequence[Any]) -> tuple[Carried, Carried]:
        """Answer a call some of whose inputs other workers made: the answer, and what others want of it.

        Args:
            frame: the call.
            upstream: frames with outputs that other workers passed on.
        """
        passed = kept(encode(requests.RESULT, {"graph": ""}))
        try:
            call = decode(frame, limits=self._limits)
            others = [decode(one, limits=self._limits, verify=False) for one in upstream]
            gave = next((one for one in others if one.kind != requests.RESULT), None)
            if gave is not None:  # the worker before this one lacked something: nothing was done here
                return kept(encode(requests.LACKS, {"upstream": True})), passed
            answer, passing = self._called(call_of(call.fields), call, others)
            return kept(answer), kept(passing) if passing is not None else _not_run()
        except Exception as error:  # noqa: BLE001 - told to the client
            answer = _failed(error)
            return kept(answer), _not_run()

    def _answered(self, raw: Any) -> list[list[bytes | memoryview]]:
        try:
            frame = decode(raw, limits=self._limits)
            if frame.kind in (Full.kind, Delta.kind, Weights.kind):
                return [to_frame(one) for one in self._received(self._own(from_frame(frame)))]
            return [self._asked(frame)]
        except Exception as error:  # noqa: BLE001 - told to the client
            return [_failed(error)]

    def _asked(self, frame: Frame) -> list[bytes | memoryview]:
        if frame.kind == requests.CALL:
            return self._called(call_of(frame.fields), frame, [])[0]
        if frame.kind == requests.PREPARE:
            return self._prepared(frame.fields)
        if frame.kind == requests.STATE:
            return self._kept(frame)
        if frame.kind == requests.RELEASE:
            return self._released(frame.fields)
        if frame.kind == requests.PROBE:
            for tensor in frame.tensors.values():
                tensor.clone()  # as of weights and state: what came is the carrier's
            return encode(requests.PROBED, {})
        if frame.kind == requests.LINK:
            latency_s, bandwidth = link_of(frame.fields)
            self._packer = Packer(lambda nbytes: latency_s + nbytes / bandwidth, names_of(frame.fields, "codecs"))
            return encode(requests.LINKED, {})
        if frame.kind == requests.STATUS:
            return encode(requests.STATUS, self.status())
        raise EngineError(f"a request of the unknown kind {frame.kind[:40]!r}")

    def _received(self, message: Message) -> list[Answer]:
        """Take a graph or weights; where there is no room for them, state goes, then what was compiled, with its copies
        of other weights: both come again when they are wanted."""
        answers: list[Answer] = []
        most = self._memory_bytes  # asked once: what is let go of is not free at once
        giving_up: tuple[dict[str, Any], ...] = ({}, self._states, self._made)
        for held in giving_up:
            held.clear()
            self._receiver.room(most - self.state_bytes - self.copied_bytes)
            answers = self._receiver.receive(message)
            if not any(isinstance(one, Refuses) for one in answers):
                break
        return answers

    @staticmethod
    def _own(message: Any) -> Message:
        """Weights in memory of the worker's own: that they came in is the carrier's, and wanted back."""
        if isinstance(message, Weights) and message.readonly:
            tensors = {name: tensor.clone() for name, tensor in message.tensors.items()}
            return dataclasses.replace(message, tensors=tensors, readonly=False)
        if not isinstance(message, (Full, Delta, Weights)):
            raise EngineError("an answer where a request was expected")
        return message

    # Compiling

    def _prepared(self, fields: Mapping[str, Any]) -> list[bytes | memoryview]:
        """Compile a graph, unless that was done for the same form before."""
        graph, about = fields.get("graph"), fields.get("about")
        if not isinstance(graph, str) or not isinstance(about, dict):
            raise EngineError("a request to prepare a graph that names none")
        form = self._receiver.held(graph)
        if form is None:
            return encode(requests.LACKS, {"graph": True})
        name = self._name(form, about)
        begun, known = time.perf_counter(), name in self._made
        if not known:
            self._made[name] = self._build(form, about)
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(name)
        seconds = time.perf_counter() - begun
        told = {**self._made[name].told, "prepared": name, "known": known, "seconds": seconds}
        return encode(requests.PREPARED, told)

    @staticmethod
    def _name(form: GraphForm, about: Mapping[str, Any]) -> str:
        """Equal for graphs that differ in their weights alone."""
        content = {name: part for name, part in form.content.items() if name != "weights"}
        return digest(json.dumps([content, about], sort_keys=True, separators=(",", ":")))

    # Calls

    def _called(
        self, call: Call, frame: Frame, others: Sequence[Frame]
    ) -> tuple[list[bytes | memoryview], list[bytes | memoryview] | None]:
        """The answer to a call, and what is passed on; None where it was not run."""
        run, weights = self._made.get(call.prepared), self._receiver.bound(call.graph)
        wanted = [name for name, version in call.state.values() if self._version(name) != version]
        if run is None or weights is None or wanted:
            lacks = {"graph": weights is None, "prepared": run is None, "states": sorted(set(wanted))}
            return encode(requests.LACKS, lacks), None
        form = self._receiver.held(call.graph)
        assert form is not None, "it is bound"
        args = self._arguments(call, frame, others, weights, len(form.form["inputs"]))
        for number in run.writes:
            if number not in call.state and isinstance(args[number], torch.Tensor):
                args[number] = args[number].clone()  # what came must not be written
        kept = {number: args[number] for number in {*call.written, *_indices(call)}}
        begun = time.perf_counter()
        for name, _ in call.state.values():
            self._states[name].version = -1  # until the call is over nobody knows what is in there
        with torch.no_grad():
            outputs = run(args)
        seconds = time.perf_counter() - begun
        for number, (name, _) in call.state.items():
            self._states[name].version = call.becomes[number]
            self._states.move_to_end(name)
        given = {**_outputs(call.gives, outputs), **_what_was_written(call, kept, outputs)}
        answer = self._result(call, given, {"seconds": seconds})
        return answer, self._result(call, _outputs(call.passes, outputs), {})

    def _version(self, name: str) -> int | None:
        held = self._states.get(name)
        return held.version if held is not None else None

    def _arguments(
        self, call: Call, frame: Frame, others: Sequence[Frame], weights: Mapping[int, torch.Tensor], count: int
    ) -> list[Any]:
        """The graph's inputs in order.

        Raises:
            EngineError: one is missing.
        """
        found: dict[int, Any] = dict(weights)
        found.update(call.numbers)
        found.update({number: self._states[name].tensor for number, (name, _) in call.state.items()})
        found.update({_number(name): tensor for name, tensor in frame.tensors.items()})
        for number, (at, output) in call.from_others.items():
            if at >= len(others) or f"o{output}" not in others[at].tensors:
                raise EngineError(f"input {number} was to come from another worker, which did not pass it on")
            found[number] = others[at].tensors[f"o{output}"]
        missing = [number for number in range(count) if number not in found]
        if missing:
            raise EngineError(f"a call without the inputs {missing[:5]}")
        return [found[number] for number in range(count)]

    def _result(self, call: Call, values: Mapping[str, Any], fields: Mapping[str, Any]) -> list[bytes | memoryview]:
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        numbers = [[name, value] for name, value in values.items() if not isinstance(value, torch.Tensor)]
        payloads = {name: payload_of(tensor) for name, tensor in tensors.items()}
        if self._packer is not None:
            payloads = {name: self._packer.pack(one) for name, one in payloads.items()}
        told = {"graph": call.graph, "numbers": numbers, **fields}
        return encode(requests.RESULT, told, payloads, digests=False, limits=self._limits)

    # What it holds

    @property
    def _memory_bytes(self) -> int:
        """What it may hold now."""
        bound = self._bound
        return bound if isinstance(bound, int) else bound(self.held_bytes + self.copied_bytes)

    def _kept(self, frame: Frame) -> list[bytes | memoryview]:
        """Keep state, in memory of the worker's own.

        Raises:
            EngineError: there is no room.
        """
        versions = frame.fields.get("versions")
        if not isinstance(versions, dict) or set(versions) != set(frame.tensors):
            raise EngineError("a state without its version")
        for name in frame.tensors:
            self._states.pop(name, None)  # the room is the new one's
        size = sum(tensor.numel() * tensor.itemsize for tensor in frame.tensors.values())
        most = self._memory_bytes
        if size > most:
            raise EngineError(
                f"the worker may hold {most} bytes: there is no room for a state of {size} bytes; give "
                "it more memory, or a smaller part of the model (worker_memory)"
            )
        self._receiver.room(most - self.state_bytes - self.copied_bytes - size)
        while self.held_bytes + size > most:
            self._states.popitem(last=False)
        for name, tensor in frame.tensors.items():
            self._states[name] = _State(tensor.clone(), int(versions[name]))
        return encode(requests.KEPT, {})

    def _released(self, fields: Mapping[str, Any]) -> list[bytes | memoryview]:
        self._receiver.release(names_of(fields, "weights"))
        for name in names_of(fields, "states"):
            self._states.pop(name, None)
        return encode(requests.RELEASED, {})

    @property
    def state_bytes(self) -> int:
        """What state takes."""
        return sum(one.nbytes for one in list(self._states.values()))

    @property
    def held_bytes(self) -> int:
        """What weights and state take."""
        return self._receiver.resident_bytes + self.state_bytes

    @property
    def copied_bytes(self) -> int:
        """What engines keep of weights besides these."""
        return sum(one.copied_bytes for one in list(self._made.values()))

    def status(self) -> dict[str, Any]:
        """What it holds: bytes of weights, of their copies and of state, and how many graphs it has compiled."""
        return {
            "incarnation": self.incarnation,
            "weight_bytes": self._receiver.resident_bytes,
            "state_bytes": self.state_bytes,
            "copied_bytes": self.copied_bytes,
            "memory_bytes": self._memory_bytes,
            "graphs": len(self._made),
            "codecs": known(),
        }


def _outputs(wanted: Sequence[int], outputs: Sequence[Any]) -> dict[str, Any]:
    return {f"o{number}": outputs[number] for number in wanted}


def _indices(call: Call) -> list[int]:
    """Inputs that tell which rows are written."""
    return [one.index[1] for one in call.written.values() if one.index is not None and one.index[0] == "i"]


def _what_was_written(call: Call, kept: Mapping[int, Any], outputs: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Of each input that was written all, or the rows that were."""
    found: dict[str, torch.Tensor] = {}
    for number, one in call.written.items():
        tensor = kept[number]
        rows = _rows(one, kept, outputs)
        if rows is None or one.dim is None:
            found[f"w{number}"] = tensor
        else:
            found[f"x{number}"] = rows % tensor.shape[one.dim]
            found[f"w{number}"] = tensor.index_select(one.dim, found[f"x{number}"])
    return found


def _rows(one: Written, kept: Mapping[int, Any], outputs: Sequence[Any]) -> torch.Tensor | None:
    if one.index is None:
        return None
    rows = kept[one.index[1]] if one.index[0] == "i" else outputs[one.index[1]]
    return rows.reshape(-1) if isinstance(rows, torch.Tensor) and not rows.dtype.is_floating_point else None


def _number(name: str) -> int:
    if name[:1] != "i" or not name[1:].isdigit():
        raise EngineError(f"a tensor {name[:40]!r} where inputs were expected")
    return int(name[1:])


def _failed(error: BaseException) -> list[bytes | memoryview]:
    if not isinstance(error, DjinnError):
        log.exception("a request failed", exc_info=error)
    out_of_memory = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
    text = str(error) if isinstance(error, DjinnError) else useful_line(error)
    return encode(requests.FAILED, {"error": type(error).__name__, "text": text[:4000], "memory": out_of_memory})


def _not_run() -> Carried:
    """In the place of what is passed on: nothing was."""
    return kept(encode(requests.LACKS, {"upstream": True}))
