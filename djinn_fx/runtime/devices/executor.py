"""Runs a program over devices: each stretch in its device's thread, as soon as what it waits for is over.

A call holds all of its own state, so that calls of several threads, or several micro-batches, are under way at once: a
device takes their stretches in the order in which they become ready. Nothing waits in a device's thread, so nothing can
wait for itself.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.engines.base import RegionCallable
from djinn_fx.errors import DeviceLostError
from djinn_fx.runtime.devices.links import LinkThread
from djinn_fx.runtime.devices.modes import Modes, carried, intercepted, modes
from djinn_fx.runtime.devices.stretches import Stretch
from djinn_fx.runtime.devices.thread import DeviceThread
from djinn_fx.runtime.devices.wear import worn
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.layouts import Expected, Layouts, Strays, laid_out, write_back
from djinn_fx.runtime.program import Program
from djinn_fx.threads import stand_still_at_the_end

_Steps = tuple[tuple[RegionCallable, tuple[int, ...], tuple[int, ...], tuple[int, ...], str], ...]


@dataclass(frozen=True, kw_only=True)
class Runnable:
    """A stretch with what runs it."""

    stretch: Stretch
    steps: _Steps
    thread: DeviceThread


class Spread:
    """A graph's callable over several devices. A ``RegionCallable``.

    Args:
        program: the whole graph's steps, for when a call cannot leave its thread.
        stretches: of the program, in an order in which they can run.
        slots: how many they use.
        callables: of the regions.
        labels: of the regions, for messages.
        threads: by device.
        links: by ``"from->to"``, who moves what goes over one.
        constants: values of slots that are neither arguments nor made.
        strays: notes values that came with other strides than were traced.
    """

    def __init__(
        self,
        program: Program,
        stretches: Sequence[Stretch],
        slots: int,
        callables: Sequence[RegionCallable],
        labels: Sequence[str],
        threads: Mapping[str, DeviceThread],
        links: Mapping[str, DeviceThread],
        constants: Mapping[int, Any],
        strays: Strays | None = None,
    ) -> None:
        self.strays = strays if strays is not None else Strays()
        self._alone = executable(program, callables, constants, self.strays)
        self._spare: list[Any] = [None] * (slots - program.arguments)
        for place, value in constants.items():
            self._spare[place - program.arguments] = value
        self.stretches = tuple(
            Runnable(
                stretch=one,
                steps=tuple((callables[s.region], s.inputs, s.outputs, s.frees, labels[s.region]) for s in one.steps),
                thread=threads[one.device] if one.steps else links[one.device],
            )
            for one in stretches
        )
        layouts = program.layouts or Layouts(strides=(None,) * program.slots)
        self._expected, self._written = Expected(layouts), layouts.written
        self._looked_at = tuple(place for place in range(program.arguments) if layouts.strides[place] is not None)
        self._results = tuple(r if isinstance(r, int) else None for r in program.results)
        self._literals = tuple(r[0] if isinstance(r, list) else None for r in program.results)

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph; empties the list.

        Raises:
            Exception: what a region raised, with a note of the region and its device.
        """
        if worn() is not None or intercepted():
            return list(self._alone(args))  # a device's thread must not wait for itself; a Python mode sees this thread
        begun = self.begin(args)
        if begun is None:
            stand_still_at_the_end()
            return list(self._alone(args))
        return begun.result()

    def begin(self, args: list[Any]) -> Call | None:
        """Begin a call, which empties the list; None with the list untouched if the interpreter ends."""
        call = self.opened(args)
        if not call.start():
            return None
        args.clear()
        return call

    def opened(self, args: Sequence[Any]) -> Call:
        """A call of which nothing runs yet."""
        slots = [*args, *self._spare]
        promised = self._expected.of(slots)
        copied: list[Any] = []
        for place in self._looked_at:
            strides = promised[place]
            if strides is not None and slots[place].stride() != strides:
                copied += self.strays.argument(place, slots, strides, self._written)
        return self.call_of(slots, promised, copied)

    def call_of(self, slots: list[Any], promised: Sequence[Any], copied: list[Any]) -> Call:
        """What holds the state of a call; its arguments are those of :class:`Call`."""
        return Call(self, slots, promised, copied)


class Call:
    """One call of a :class:`Spread`, under way.

    Args:
        graph: that is called.
        slots: its values; arguments first.
        promised: strides by slot.
        copied: arguments that were put into order and are to be written back.
    """

    def __init__(self, graph: Spread, slots: list[Any], promised: Sequence[Any], copied: list[Any]) -> None:
        self._graph, self._slots, self._promised, self._copied = graph, slots, promised, copied
        self._modes: Modes = modes()
        self._left = [one.stretch.waits for one in graph.stretches]
        self._lock = threading.Lock()
        self._under_way = 0
        self._error: BaseException | None = None
        self._over = threading.Lock()
        self._over.acquire()
        self._watchers: list[Callable[[], None]] = []

    def start(self) -> bool:
        """Hand out the stretches that wait for nothing; False if there is no thread to take one."""
        first = [place for place, left in enumerate(self._left) if not left]
        self._under_way = len(first)
        for done, place in enumerate(first):
            if not self._submit(place):
                if not done:
                    return False
                self._failed(RuntimeError("the interpreter ends"))
                self._finished(place)
        if not first:
            self._over.release()
        return True

    def result(self) -> list[Any]:
        """Wait until the call is over; what the graph returns.

        Raises:
            Exception: as :meth:`Spread.__call__`.
        """
        with self._over:  # whoever else asks finds it free
            self._handed_over()
            if self._error is not None:
                stand_still_at_the_end()
                raise self._error
            if self._copied:
                write_back(self._copied)
                self._copied = []
            slots, graph = self._slots, self._graph
            return [
                literal if place is None else slots[place]
                for place, literal in zip(graph._results, graph._literals, strict=True)
            ]

    def _handed_over(self) -> None:
        """In the caller's thread, before it sees the results."""

    def _submit(self, place: int) -> bool:
        one = self._graph.stretches[place]
        if one.stretch.moves and isinstance(one.thread, LinkThread):
            nbytes = sum(move.nbytes for move in one.stretch.moves)
            return one.thread.submit_move(functools.partial(self._run, place), nbytes)
        return one.thread.submit(functools.partial(self._run, place))

    def _run(self, place: int) -> None:
        """Run a stretch, and those after it that are this thread's too."""
        following: int | None = place
        while following is not None:
            if self._error is None:
                try:
                    with carried(self._modes):
                        self._do(following)
                except BaseException as error:  # noqa: BLE001  (raised again in the thread that called)
                    self._failed(error)
            following = self._finished(following)

    def _do(self, place: int) -> None:
        """Do what a stretch is."""
        one = self._graph.stretches[place]
        self._moves(one.stretch) if one.stretch.moves else self._steps(one)

    def _told(self, error: BaseException) -> BaseException:
        """What is raised in an error's place."""
        return error

    def _steps(self, one: Runnable) -> None:
        slots, promised, strays = self._slots, self._promised, self._graph.strays
        label = ""
        try:
            for run, inputs, outputs, frees, label in one.steps:  # noqa: B007  (for the message)
                given = [slots[place] for place in inputs]
                for place in frees:
                    slots[place] = None
                made = run(given)
                for place, value in zip(outputs, made, strict=True):
                    strides = promised[place]
                    if strides is not None and value.stride() != strides:
                        value = strays.settled(place, value, strides)
                    slots[place] = value
                value = None
                del made  # else both would live until the next region has run
        except BaseException as error:
            told = self._told(error)
            if isinstance(told, DeviceLostError):
                one.thread.lose()
            if hasattr(told, "add_note"):  # from Python 3.11 on
                told.add_note(f"in region {label!r} on {one.stretch.device}")
            if told is error:
                raise
            raise told from error

    def _moves(self, stretch: Stretch) -> None:
        for move in stretch.moves:
            value = self._slots[move.source]
            self._slots[move.target] = _copied(value)
            if move.frees:
                self._slots[move.source] = None

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error

    def _finished(self, place: int) -> int | None:
        """Hand out what waited for a stretch; one of these, if it is to be run here. After an error none is."""
        mine = self._graph.stretches[place].thread
        ready = []
        with self._lock:
            if self._error is None:
                for other in self._graph.stretches[place].stretch.then:
                    self._left[other] -= 1
                    if not self._left[other]:
                        ready.append(other)
            self._under_way += len(ready) - 1
            over = not self._under_way
        here: int | None = None
        for other in ready:
            if here is None and self._graph.stretches[other].thread is mine and not isinstance(mine, LinkThread):
                here = other
            elif not self._submit(other):
                self._failed(RuntimeError("the interpreter ends"))
                if self._finished(other) is None and here is None:
                    return None
        if over:
            self._over.release()
        return here


def _copied(value: Any) -> Any:
    """A copy with the same strides, which the reader was built for; what is no tensor as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return laid_out(value, value.stride()) if value.layout is torch.strided else value.clone()
