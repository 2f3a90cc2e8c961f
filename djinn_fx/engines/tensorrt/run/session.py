"""Calls a plan as a region: addresses, sizes, streams, outputs, writes into arguments. The CUDA calls are in ``cuda``.

One :class:`Session` serves a plan for every device and stream of the process:

* The plan is deserialised once a device, and has one execution context a stream, the least recently used of which is
  let go when there are too many: two streams must never share one, and each holds scratch memory.
* An address or a shape is told to a context only when it differs from what that context was told last. Weights
  are inputs like any other: where one region is called again and again, they are told once.
* Outputs are allocated by torch's caching allocator on the current stream. Work is put on the current stream, or
  between two events on one of our own if that is the default stream, on which TensorRT would synchronise the device.
  Either way everything after it on the current stream waits for it, so no memory has to be marked as in use by another
  stream (``record_stream``): only what a call made for itself is freed early, and that is reused in stream order.
* A call whose sizes lie outside the plan's profile is refused before anything is touched (:class:`OutsideProfile`).
* A call does not synchronise, so it can be captured into a CUDA graph, provided its context has run once before. It
  does where values decide whether the plan computes what torch does (an index may be out of range): these are looked
  at, and such a call is not captured.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.engines.base import Declined, Runner
from djinn_fx.engines.bound.signature import Given, Result, result_without_model
from djinn_fx.engines.lowering.formulas import Formula, evaluate_all
from djinn_fx.engines.ranges.program import Checked
from djinn_fx.engines.tensorrt.run.calling import Calling, Made, Taken
from djinn_fx.engines.tensorrt.run.driver import Context, Driver, Loaded
from djinn_fx.errors import EngineError

#: Contexts kept a session. Each holds scratch memory; a program that calls one plan on more streams than this by turns
#: makes contexts anew, which is slow and not wrong.
MAX_CONTEXTS = 8
#: TensorRT's documentation asks for addresses that are multiples of this.
ALIGNMENT = 256


class OutsideProfile(EngineError):
    """A call has sizes the plan was not built for. Nothing was done: the arguments are as they were."""


@dataclass
class _Bound:
    """A context and what it was told last."""

    context: Context
    addresses: list[int]
    shapes: list[tuple[int, ...] | None]


class Session(Runner):
    """A plan, callable as the region it was built from.

    Args:
        plan: the serialised plan.
        calling: how arguments and results map to its tensors.
        driver: the runtime.
        device_type: of the tensors it takes.
        label: for messages.
        max_contexts: kept at a time.

    Attributes:
        mutated: the arguments that a call writes into.
        accepts: says whether a call with these arguments lies within what the plan was built for; None if all do.
        double_in_single: double precision is computed in single.
        label: for messages.
    """

    #: It answers a part of calls: the region's own ops must stand beside it (``engines.base.Engine``).
    wants_reference = True
    double_in_single = True

    def __init__(
        self,
        plan: bytes,
        calling: Calling,
        driver: Driver,
        *,
        device_type: str = "cuda",
        label: str = "",
        max_contexts: int = MAX_CONTEXTS,
    ) -> None:
        self._plan, self._calling, self._driver = plan, calling, driver
        self._device_type, self.label, self._max_contexts = device_type, label, max_contexts
        self._names = (*(one.name for one in calling.inputs), *(one.name for one in calling.outputs))
        self._dynamic = tuple(p for p, one in enumerate(calling.inputs) if not all(type(s) is int for s in one.shape))
        self._takes = tuple((one.argument, _dtype(one.dtype)) for one in calling.inputs)
        self._made_types = tuple(_dtype(one.dtype) for one in calling.outputs)
        self._shapes = tuple(_numbers(one.shape) for one in calling.outputs)
        self._target = {copy.output: copy.input for copy in calling.copies}
        self._loaded: dict[torch.device, Loaded] = {}
        self._aliases: dict[int, int] = {}
        self._bound: OrderedDict[tuple[torch.device, int], _Bound] = OrderedDict()
        self._lock = threading.RLock()
        self.mutated = calling.mutated
        self.accepts: Callable[[Sequence[Any]], bool] | None = self._inside if calling.limits else None
        places = {one.symbol: (one.argument, one.dim) for one in (*calling.places, *calling.elsewhere)}
        self._checked = Checked(calling.program, places)
        self._has_conditions = bool(calling.program.checks) or calling.flag is not None

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the plan on the current stream. Empties the list, once the work is on the stream.

        Raises:
            OutsideProfile: the sizes are not the plan's; nothing was done.
            Declined: these values are not for it; the arguments are as they were.
            EngineError: TensorRT refused (stage load or run); the arguments are as they were.
        """
        calling = self._calling
        symbols: dict[str, int] = {}
        if calling.limits or calling.elsewhere:
            outside = calling.outside(args)
            if outside is not None:
                raise OutsideProfile(f"{self.label}: run: {outside}")
            symbols = calling.symbols(args)
        if self._has_conditions:
            self._look(args)
        device, given = self._taken(args)
        with self._lock:
            stream = self._driver.stream(device)
            bound = self._context(device, stream)
            made = self._allocate(device, given, args, symbols)
            self._bind(bound, given, made)
            bound.context.run(stream)
        if calling.flag is not None and not made[calling.flag].item():
            raise Declined("an index is out of range, or a number beyond what the plan computes as torch does")
        for copy in calling.copies:
            if made[copy.output] is not args[copy.input]:
                args[copy.input].copy_(made[copy.output])
        results: list[Any] = []
        for one in calling.results:
            results.append(self._result(one, made, args, symbols, results))
        args.clear()
        return results

    # Inside

    def _look(self, args: Sequence[Any]) -> None:
        """What must be known of a call's values, before it runs; what it computes tells the rest.

        Raises:
            Declined: they are not for the plan, or cannot be looked at because the call is being recorded.
        """
        if self._device_type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise Declined("a call whose values must be looked at cannot be recorded into a CUDA graph")
        self._checked(args)

    def _inside(self, args: Sequence[Any]) -> bool:
        return self._calling.outside(args) is None

    def _taken(self, args: Sequence[Any]) -> tuple[torch.device, list[torch.Tensor]]:
        """The one device of the arguments, and the plan's inputs as TensorRT can read them.

        Runs on every call over every weight, so each question to a tensor is asked once.

        Raises:
            EngineError: they are on several devices, or not on one of ours.
        """
        given: list[torch.Tensor] = []
        odd: list[int] = []
        device: torch.device | None = None
        for place, (argument, dtype) in enumerate(self._takes):
            tensor = args[argument]
            given.append(tensor)
            found = tensor.device
            if found != device:
                if found.type == "cpu" and tensor.dim() == 0 and self._device_type != "cpu":
                    odd.append(place)  # a number in the host's memory
                    continue
                if device is not None or found.type != self._device_type:
                    also = f" and on {device}" if device is not None else ""
                    raise EngineError(f"{self.label}: run: argument {argument} is on {found}{also}")
                device = found
            if (
                tensor.dtype is not dtype
                or tensor.data_ptr() % ALIGNMENT
                or not tensor.is_contiguous()
                or tensor.is_neg()
            ):
                odd.append(place)
        if device is None:
            raise EngineError(f"{self.label}: run: no argument is on a {self._device_type} device")
        for place in odd:
            given[place] = _brought(given[place], device, self._takes[place][1])
        return device, given

    def _on(self, device: torch.device) -> Loaded:
        known = self._loaded.get(device)
        if known is None:
            known = self._driver.load(self._plan, device)
            self._verify(known)
            self._loaded[device] = known
        return known

    def _verify(self, loaded: Loaded) -> None:
        """Hold the plan's own word on its tensors against the mapping: a plan of another region must not run.

        Raises:
            EngineError: a tensor is missing, left over, or not what the mapping says.
        """
        calling = self._calling
        tensors = dict(loaded.tensors())
        mine: list[tuple[bool, Taken | Made]] = [(True, one) for one in calling.inputs]
        mine += [(False, one) for one in calling.outputs]
        for is_input, one in mine:
            found = tensors.pop(one.name, None)
            wanted = (is_input, one.dtype, _wild(one))
            if found is None or found[:2] != wanted[:2] or not _agree(found[2], wanted[2]):
                raise EngineError(f"{self.label}: load: the plan's tensor {one.name} is {found}, not {wanted}")
        if tensors:
            raise EngineError(f"{self.label}: load: the plan has tensors nobody gives: {', '.join(sorted(tensors))}")
        inputs = {one.name: place for place, one in enumerate(calling.inputs)}
        outputs = {one.name: place for place, one in enumerate(calling.outputs)}
        self._aliases = {outputs[output]: inputs[source] for output, source in loaded.aliases.items()}
        for output, source in self._aliases.items():
            if self._target.get(output) != calling.inputs[source].argument:
                raise EngineError(f"{self.label}: load: output {output} is written over an argument that must stay")

    def _context(self, device: torch.device, stream: int) -> _Bound:
        place = (device, stream)
        bound = self._bound.get(place)
        if bound is not None:
            self._bound.move_to_end(place)
            return bound
        context = self._on(device).context()
        while len(self._bound) >= self._max_contexts:
            old_device, _ = next(iter(self._bound))
            self._driver.settle(old_device)
            self._bound.popitem(last=False)
        bound = _Bound(context, [-1] * len(self._names), [None] * len(self._calling.inputs))
        self._bound[place] = bound
        return bound

    def _allocate(
        self, device: torch.device, given: Sequence[torch.Tensor], args: Sequence[Any], symbols: Mapping[str, int]
    ) -> list[torch.Tensor]:
        made = []
        for index, (one, dtype) in enumerate(zip(self._calling.outputs, self._made_types, strict=True)):
            alias = self._aliases.get(index)
            if alias is not None:
                made.append(given[alias])
                continue
            sizes = self._shapes[index]
            if sizes is None:
                sizes = args[self._target[index]].shape if one.shape is None else evaluate_all(one.shape, symbols)
            made.append(torch.empty(sizes, dtype=dtype, device=device))
        return made

    def _bind(self, bound: _Bound, given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]) -> None:
        context, names = bound.context, self._names
        for place in self._dynamic:
            shape = tuple(given[place].shape)
            if bound.shapes[place] != shape:
                bound.shapes[place] = None  # what the context holds is not known if it refuses
                context.set_shape(names[place], shape)
                bound.shapes[place] = shape
        told = bound.addresses
        for place, tensor in enumerate((*given, *made)):
            address = tensor.data_ptr()
            if told[place] != address:
                told[place] = -1
                context.set_address(names[place], address)
                told[place] = address

    def _result(
        self,
        one: Result,
        made: Sequence[torch.Tensor],
        args: Sequence[Any],
        symbols: Mapping[str, int],
        results: Sequence[Any],
    ) -> Any:
        if not isinstance(one, Given):
            return result_without_model(one, args, symbols, results)
        tensor, strides = made[one.output], evaluate_all(one.strides or (), symbols)
        if one.output in self._aliases:
            tensor = tensor.clone()  # it is the argument's memory, and the result must not change with it
        if one.dense:
            return tensor.as_strided(evaluate_all(one.sizes or (), symbols), strides)
        return tensor if tensor.stride() == strides else _laid_out(tensor, strides)


def _brought(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A copy that TensorRT can read; torch's allocator gives addresses that are multiples of more than it asks for.

    Raises:
        EngineError: the argument is of another type than the plan was built for; only a float64 number is rounded.
    """
    if tensor.dtype is not dtype and not (tensor.dim() == 0 and tensor.dtype is torch.float64):
        raise EngineError(f"run: an argument of {tensor.dtype}, the plan takes {dtype}")
    return torch.empty(tensor.shape, dtype=dtype, device=device).copy_(tensor)


def _laid_out(tensor: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """A copy with these strides. Elements along a stride of 0 share memory; they are equal, so one is written."""
    made = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    target = made
    for dim, (size, stride) in enumerate(zip(tensor.shape, strides, strict=True)):
        if stride == 0 and size > 1:
            target, tensor = target.narrow(dim, 0, 1), tensor.narrow(dim, 0, 1)
    target.copy_(tensor)
    return made


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise EngineError(f"tensorrt: load: {name!r} is no element type")
    return found


def _numbers(sizes: Sequence[Formula] | None) -> tuple[int, ...] | None:
    """The sizes if all of them are numbers."""
    numbers = tuple(size for size in sizes or () if type(size) is int)
    return numbers if sizes is not None and len(numbers) == len(sizes) else None


def _wild(one: Taken | Made) -> tuple[int, ...] | None:
    """The shape as TensorRT writes it: -1 where it differs from call to call; None if nothing is said of it."""
    return None if one.shape is None else tuple(size if type(size) is int else -1 for size in one.shape)


def _agree(found: Sequence[int], wanted: Sequence[int] | None) -> bool:
    """Whether two shapes may be the same; -1 is any size."""
    if wanted is None:
        return True
    return len(found) == len(wanted) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(found, wanted, strict=True)
    )
