"""Runs a program over CUDA devices: each stretch is given to its device's stream by its device's thread.

A stretch is over for the host when its work has been given to a stream. What reads its values on another device waits
for its event there. The call is over when all has been given out; the caller's stream then waits for what came last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from djinn_fx.engines.base import RegionCallable
from djinn_fx.errors import DeviceLostError, EngineError, useful_line
from djinn_fx.runtime.devices.cuda.beside import Home, note_call
from djinn_fx.runtime.devices.cuda.carrying import Way
from djinn_fx.runtime.devices.cuda.residents import Residents
from djinn_fx.runtime.devices.cuda.streams import DeviceStreams
from djinn_fx.runtime.devices.executor import Call, Spread
from djinn_fx.runtime.devices.modes import intercepted
from djinn_fx.runtime.devices.stretches import Stretch
from djinn_fx.runtime.devices.wear import worn
from djinn_fx.runtime.layouts import Strays
from djinn_fx.runtime.program import Program
from djinn_fx.threads import stand_still_at_the_end


@dataclass(frozen=True, kw_only=True)
class Places:
    """The devices of a graph, and what lies between them.

    Attributes:
        home: the device of the graph's tensors.
        devices: by name.
        ways: by ``"from->to"``.
        kept: slots of weights and constants.
        copies: for each device that weights are copied to: for each weight its slot, and the one that the copy is in.
        borrowed: arguments that do not stay in memory between calls.
    """

    home: str
    devices: Mapping[str, DeviceStreams]
    ways: Mapping[str, Way]
    kept: tuple[int, ...] = ()
    copies: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    borrowed: frozenset[int] = frozenset()


class CudaSpread(Spread):
    """A graph's callable over several CUDA devices. A ``RegionCallable``.

    Args:
        places: the devices.

    The others are those of :class:`Spread`.
    """

    def __init__(
        self,
        program: Program,
        stretches: Sequence[Stretch],
        slots: int,
        callables: Sequence[RegionCallable],
        labels: Sequence[str],
        places: Places,
        constants: Mapping[int, Any],
        strays: Strays | None = None,
    ) -> None:
        threads = {name: one.thread for name, one in places.devices.items()}
        movers = {name: way.source.thread for name, way in places.ways.items()}
        super().__init__(program, stretches, slots, callables, labels, threads, movers, constants, strays)
        self.places = places
        self.driver = places.devices[places.home].driver
        self._home = Home(self.driver, places.devices[places.home].index)
        self.before: list[list[int]] = [[] for _ in stretches]
        for place, one in enumerate(stretches):
            for other in one.then:
                self.before[other].append(place)
        self.last = [place for place, one in enumerate(stretches) if not one.then]
        #: Of each stretch the slots that come from another stream: arguments, and what was carried here.
        carried = {move.target for one in stretches for move in one.moves}
        self.foreign = [
            tuple(sorted({slot for step in one.steps for slot in step.inputs} & (carried | places.borrowed)))
            for one in stretches
        ]
        self.residents = {name: Residents(places.ways[f"{places.home}->{name}"]) for name in places.copies}

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph; empties the list.

        Raises:
            EngineError: it is being captured into a CUDA graph.
            Exception: what a region raised, with a note of the region and its device.
        """
        if self.driver.is_capturing():
            raise EngineError(
                "a graph that is spread over several CUDA devices cannot be captured into a CUDA graph: it looks at "
                "its weights before each call; leave `devices` away, or capture nothing"
            )
        note_call(self._home)
        if worn() is None and not intercepted():
            begun = self.begin(args)
            if begun is not None:
                return begun.result()
            stand_still_at_the_end()
        call = self.opened(args)
        args.clear()
        assert isinstance(call, CudaCall), "made by call_of"
        return call.alone()

    def call_of(self, slots: list[Any], promised: Sequence[Any], copied: list[Any]) -> CudaCall:
        """See the base class."""
        return CudaCall(self, slots, promised, copied)


class CudaCall(Call):
    """One call, under way."""

    def __init__(self, graph: CudaSpread, slots: list[Any], promised: Sequence[Any], copied: list[Any]) -> None:
        super().__init__(graph, slots, promised, copied)
        self._spread = graph
        self._events: list[Any] = [None] * len(graph.stretches)
        self._ready: set[str] = set()
        # Until the caller's stream waits for the readers, the weights' memory must be nobody else's.
        self._weights = [slots[place] for place in graph.places.kept]
        self._caller = graph.driver.current_stream(graph.places.devices[graph.places.home].index)
        self._arrived = graph.driver.new_event()
        self._arrived.record(self._caller)

    def alone(self) -> list[Any]:
        """All of it from this thread; the devices' streams work as ever."""
        try:
            for place in range(len(self._graph.stretches)):
                self._do(place)
        except BaseException as error:  # noqa: BLE001  (raised again by result, once the caller's stream may go on)
            self._failed(error)
        self._over.release()
        return self.result()

    def _do(self, place: int) -> None:
        one, spread = self._graph.stretches[place], self._spread
        if one.stretch.moves:
            self._carry(one.stretch, place)
            return
        device, driver = spread.places.devices[one.stretch.device], spread.driver
        try:
            with driver.on(device.compute):
                for event in self._awaited(place):
                    device.compute.wait_event(event)
                self._bring_weights(one.stretch.device)
                for slot in spread.foreign[place]:
                    driver.keep(self._slots[slot], device.compute)
                self._steps(one)
        except BaseException as error:
            told = self._told(error)  # a region's own error is told already; waiting for weights may find one, too
            if isinstance(told, DeviceLostError):
                device.thread.lose()
            else:
                self._note(place, device.compute)  # what was given to the stream reads the caller's tensors
            if told is error:
                raise
            raise told from error
        self._note(place, device.compute)

    def _carry(self, stretch: Stretch, place: int) -> None:
        """Values over one way."""
        way = self._spread.places.ways[stretch.device]
        try:
            for move in stretch.moves:
                value, done = way.carried(self._slots[move.source], self._awaited(place))
                self._slots[move.target] = value
                self._events[place] = done
                if move.frees:
                    self._slots[move.source] = None
        except BaseException as error:
            told = self._told(error)
            if isinstance(told, DeviceLostError):
                way.target.thread.lose()
            if hasattr(told, "add_note"):  # from Python 3.11 on
                told.add_note(f"a value on its way, {stretch.device}")
            if told is error:
                raise
            raise told from error

    def _awaited(self, place: int) -> list[Any]:
        """The events of what comes before, and that of the arguments."""
        return [self._arrived, *(self._events[other] for other in self._spread.before[place])]

    def _note(self, place: int, stream: Any) -> None:
        event = self._spread.driver.new_event()
        event.record(stream)
        self._events[place] = event

    def _bring_weights(self, name: str) -> None:
        """Before the first stretch of a device: the copies of weights that its regions read."""
        mine = self._spread.places.copies.get(name)
        if not mine or name in self._ready:
            return
        self._ready.add(name)
        given = dict(zip(self._spread.places.kept, self._weights, strict=True))
        copies = self._spread.residents[name].of([given[slot] for slot, _ in mine], self._arrived)
        for (_, slot), copy in zip(mine, copies, strict=True):
            self._slots[slot] = copy

    def _told(self, error: BaseException) -> BaseException:
        if not self._spread.driver.is_lost(error):
            return error
        return DeviceLostError(
            f"a CUDA device is of no use to this process any more ({useful_line(error)}); with CUDA_LAUNCH_BLOCKING=1 "
            "the op that is to blame says so itself"
        )

    def _handed_over(self) -> None:
        """The caller's stream waits for whatever this call gave to others; results belong to it from then on."""
        if isinstance(self._error, DeviceLostError):
            return
        driver, spread = self._spread.driver, self._spread
        stream = driver.current_stream(spread.places.devices[spread.places.home].index)
        events = [self._events[place] for place in (spread.last if self._error is None else range(len(self._events)))]
        for event in events:
            if event is not None:
                stream.wait_event(event)
        if self._error is None:
            for place in spread._results:
                if place is not None:
                    driver.keep(self._slots[place], stream)
        self._weights = []


def handing_back(program: Program, devices: Sequence[str], home: str) -> Program:
    """The program with a last step at home that is given the results made elsewhere, and gives them back.

    So they are carried like whatever else is read there. The step's region is one more than there are.

    Args:
        program: of the plan.
        devices: of its regions.
        home: the device of the graph's tensors.
    """
    made = {slot for step in program.steps if devices[step.region] != home for slot in step.outputs}
    back = tuple(dict.fromkeys(slot for slot in program.results if isinstance(slot, int) and slot in made))
    if not back:
        return program
    new = {slot: program.slots + place for place, slot in enumerate(back)}
    last = replace(program.steps[-1], region=len(devices), inputs=back, outputs=tuple(new.values()), frees=back)
    layouts = program.layouts
    if layouts is not None:
        layouts = replace(layouts, strides=(*layouts.strides, *(layouts.strides[slot] for slot in back)))
    return replace(
        program,
        slots=program.slots + len(back),
        steps=(*program.steps, last),
        results=tuple(new.get(one, one) if isinstance(one, int) else one for one in program.results),
        layouts=layouts,
    )


def given_back(args: list[Any]) -> list[Any]:
    """What the last step runs."""
    return list(args)
