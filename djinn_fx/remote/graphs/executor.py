"""Runs a plan whose regions are on workers: one request a region, all sent before the first answer is waited for.

What the caller's tensors hold is the truth. A worker keeps a copy of weights, and of what the graph writes; what was
written comes back with the answer and is written into the caller's tensors once the whole call is over. So a call that
fails has changed nothing, and can be made again elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from djinn_fx.engines.base import RegionCallable
from djinn_fx.errors import EngineError
from djinn_fx.remote.graphs.holding import State, count_of
from djinn_fx.remote.graphs.placed import PlacedPart
from djinn_fx.remote.wire.frame import Frame, encode
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.client import Waiting
from djinn_fx.remote.workers.requests import Call
from djinn_fx.runtime.layouts import Expected, Layouts, Strays, write_back
from djinn_fx.runtime.program import Program, Step

#: How often a worker may say in one call that it lacks something.
_ROUNDS = 4


@dataclass
class _Sent:
    """A region's request in one call.

    Attributes:
        part: of the region.
        step: of the program.
        states: of inputs that it writes: what is known of the worker's copy, the caller's tensor, the version after.
        waiting: the request.
        answer: once it came.
    """

    part: PlacedPart
    step: Step
    states: dict[int, tuple[State, torch.Tensor, int]] = field(default_factory=dict)
    waiting: Waiting | None = None
    answer: Frame | None = None


class OverWorkers:
    """A graph's callable over workers. A ``RegionCallable``.

    Args:
        program: the graph's steps.
        parts: by region, of those on workers.
        callables: by region, of the others: they run here.
        constants: values of slots that are neither arguments nor made.
        strays: notes values that came with other strides than were traced.
        writes_here: whether regions that run here write, so that a call which failed may not be made again.
        raised: arguments whose count of writes is raised by one before each call, without a write.
        told: of :attr:`seconds`, after each call.

    Attributes:
        seconds: that the workers were at work on their regions in the last call, by region.
    """

    def __init__(
        self,
        program: Program,
        parts: Mapping[int, PlacedPart],
        callables: Mapping[int, RegionCallable],
        constants: Mapping[int, Any],
        strays: Strays,
        *,
        writes_here: bool = False,
        raised: Collection[int] = (),
        told: Callable[[Mapping[int, float]], None] = lambda _: None,
    ) -> None:
        self.writes_here, self._raised, self._told = writes_here, raised, told
        self._program, self._parts, self._callables, self._strays = program, parts, callables, strays
        self._spare: list[Any] = [None] * (program.slots - program.arguments)
        for place, value in constants.items():
            self._spare[place - program.arguments] = value
        layouts = program.layouts or Layouts(strides=(None,) * program.slots)
        self._expected, self._written = Expected(layouts), layouts.written
        self._looked_at = tuple(place for place in range(program.arguments) if layouts.strides[place] is not None)
        self._made_by = {
            slot: (step.region, number) for step in program.steps for number, slot in enumerate(step.outputs)
        }
        self._wanted = _wanted(program, parts)
        self._lock = threading.RLock()
        self.seconds: dict[int, float] = {}

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph; empties the list.

        Raises:
            DeviceLostError: a worker is lost; nothing was written.
            EngineError: a worker could not do its part; likewise.
        """
        slots = [*args, *self._spare]
        promised, copied = self._expected.of(slots), []
        for place in self._looked_at:
            strides = promised[place]
            if strides is not None and slots[place].stride() != strides:
                copied += self._strays.argument(place, slots, strides, self._written)
        with self._lock:  # what workers hold is known of one call after the other
            sent = self._run(slots, promised)
            _write(sent)
            self._told(self.seconds)
        args.clear()
        if copied:
            write_back(copied)
        return [result[0] if isinstance(result, list) else slots[result] for result in self._program.results]

    def _run(self, slots: list[Any], promised: Sequence[Any]) -> list[_Sent]:
        sent: dict[int, _Sent] = {}
        try:
            for step in self._program.steps:
                part = self._parts.get(step.region)
                if part is None:
                    self._gather([sent[region] for region in self._before(step) if region in sent], slots, promised)
                    made = self._callables[step.region]([slots[place] for place in step.inputs])
                    for place, value in zip(step.outputs, made, strict=True):
                        slots[place] = value
                else:
                    sent[step.region] = self._send(_Sent(part, step), slots, sent)
            self._gather(list(sent.values()), slots, promised)
        except BaseException:
            for one in sent.values():
                for state, _, _ in one.states.values():
                    state.version = None  # it may have been written there, and was not here
            raise
        return list(sent.values())

    def _before(self, step: Step) -> list[int]:
        """The regions that must be over before one that runs here: all that were sent, in their order."""
        last = max((self._made_by[slot][0] for slot in step.inputs if slot in self._made_by), default=None)
        order = [one.region for one in self._program.steps]
        return order[: order.index(last) + 1] if last is not None else []

    def _send(self, one: _Sent, slots: list[Any], sent: Mapping[int, _Sent], *, again: bool = False) -> _Sent:
        part, step, holding = one.part, one.step, one.part.holding
        inputs = [slots[place] for place in step.inputs]
        with holding.lock:
            part.ensure([inputs[number] for number in part.part.weights], anew=again)
            frames = [*holding.releases()]
            stale: dict[str, tuple[State, torch.Tensor]] = {}
            for number in part.part.state:
                state = holding.state_of(inputs[number])
                one.states[number] = state, inputs[number], holding.next_version()
                if again or holding.stale(state, inputs[number], step.inputs[number] in self._raised):
                    stale[state.name] = state, inputs[number]
            if stale:
                frames.append(holding.sending(stale))
            if frames:
                _all_kept(holding.worker.ask(frames).wait())
            call, payloads, upstream = self._call(one, inputs, sent)
            request = encode(requests.CALL, call.to_fields(), holding.worker.packed(payloads), digests=False)
            if upstream or call.passes:
                one.waiting = holding.worker.relay(request, upstream)
            else:
                one.waiting = holding.worker.ask([(requests.CALL, request)])
        return one

    def _call(
        self, one: _Sent, inputs: Sequence[Any], sent: Mapping[int, _Sent]
    ) -> tuple[Call, dict[str, Payload], list[Any]]:
        """The request for a region: its fields, its tensors, and the requests whose results go into it."""
        part = one.part.part
        numbers: dict[int, Any] = {}
        payloads: dict[str, Payload] = {}
        upstream: dict[int, int] = {}
        from_others: dict[int, tuple[int, int]] = {}
        resident = {*part.weights, *part.state}
        for number, (slot, value) in enumerate(zip(one.step.inputs, inputs, strict=True)):
            maker, output = self._made_by.get(slot, (-1, 0))
            if number in resident:
                continue
            if maker in sent:
                from_others[number] = upstream.setdefault(maker, len(upstream)), output
            elif isinstance(value, torch.Tensor):
                payloads[f"i{number}"] = payload_of(value)
            else:
                numbers[number] = value
        gives, passes = self._wanted[part.region]
        call = Call(
            graph=one.part.graph,
            prepared=one.part.prepared,
            numbers=numbers,
            state={number: (state.name, state.version or 0) for number, (state, _, _) in one.states.items()},
            becomes={number: after for number, (_, _, after) in one.states.items()},
            from_others=from_others,
            gives=gives,
            passes=passes,
            written=part.written,
        )
        return call, payloads, [_passed(sent[maker]) for maker in upstream]

    def _gather(self, sent: Sequence[_Sent], slots: list[Any], promised: Sequence[Any]) -> None:
        """Wait for regions, and put what they gave into the slots."""
        for place, one in enumerate(sent):
            if one.answer is None:
                one.answer = self._answer(place, sent, slots)
                self._take(one, one.answer, slots, promised)

    def _answer(self, place: int, sent: Sequence[_Sent], slots: list[Any]) -> Frame:
        """A region's answer; what its worker lacks is sent, and this and the later requests once more."""
        one = sent[place]
        for _ in range(_ROUNDS):
            assert one.waiting is not None, "it was sent"
            frame = one.waiting.wait()[0]
            if frame.kind == requests.RESULT:
                return frame
            for later in sent[place:]:
                if later.answer is None:
                    self._send(later, slots, {two.part.part.region: two for two in sent}, again=later is one)
        raise EngineError(
            f"{one.part.holding.worker.name} lacks again and again what it was sent for {one.part.part.label}"
        )

    def _take(self, one: _Sent, frame: Frame, slots: list[Any], promised: Sequence[Any]) -> None:
        self.seconds[one.step.region] = float(frame.fields.get("seconds", 0.0))
        values: dict[str, Any] = dict(frame.tensors)
        values.update(dict(frame.fields.get("numbers", [])))
        for number, slot in enumerate(one.step.outputs):
            if number in one.part.part.same:
                slots[slot] = slots[one.step.inputs[one.part.part.same[number]]]
            elif f"o{number}" in values:
                value, strides = values[f"o{number}"], promised[slot]
                if isinstance(value, torch.Tensor):
                    value = value.clone() if frame.readonly else value
                    if strides is not None and value.stride() != strides:
                        value = self._strays.settled(slot, value, strides)
                slots[slot] = value


def _wanted(program: Program, parts: Mapping[int, PlacedPart]) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Of each region on a worker: outputs that are wanted here, and those that other workers want."""
    here = {result for result in program.results if isinstance(result, int)}
    there: set[int] = set()
    for step in program.steps:
        (there if step.region in parts else here).update(step.inputs)
    found = {}
    for step in program.steps:
        if step.region in parts:
            same = parts[step.region].part.same
            gives = tuple(n for n, slot in enumerate(step.outputs) if slot in here and n not in same)
            found[step.region] = gives, tuple(n for n, slot in enumerate(step.outputs) if slot in there)
    return found


def _passed(one: _Sent) -> Any:
    assert one.waiting is not None, "it was sent before"
    return one.waiting.passed


def _all_kept(frames: Sequence[Frame]) -> None:
    for frame in frames:
        if frame.kind not in (requests.KEPT, requests.RELEASED):
            raise EngineError(f"a worker answered {frame.kind} where state was sent")


def _write(sent: Sequence[_Sent]) -> None:
    """Write what workers wrote into the caller's tensors, of which their copies are equal then."""
    with torch.no_grad():
        for one in sent:
            assert one.answer is not None, "the call is over"
            for number, (state, tensor, after) in one.states.items():
                value, how = one.answer.tensors[f"w{number}"], one.part.part.written[number]
                rows = one.answer.tensors.get(f"x{number}")
                if rows is None or how.dim is None:
                    tensor.copy_(value)
                else:
                    tensor.index_copy_(how.dim, rows, value)
                state.version, state.seen = after, count_of(tensor)
