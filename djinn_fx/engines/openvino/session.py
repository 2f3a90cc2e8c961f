"""A region's model opened by OpenVINO. The only module that uses its Python binding's inner layer.

Arguments are read where torch has them. Results are written into memory that torch then owns: of a size that is known,
memory that an earlier result has left; else memory that OpenVINO makes for this one result. Setting a tensor costs
microseconds, so what stays where it was (a cache of keys and values) is not set again.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from djinn_fx.engines.bound.signature import Fed, Signature
from djinn_fx.engines.onnx.serving.inplace import InPlace, write_in_place
from djinn_fx.engines.onnx.serving.session import Wiring, give_back, packed_bytes, shaped
from djinn_fx.engines.openvino.compressed import compress
from djinn_fx.engines.openvino.exact import keep_exact
from djinn_fx.engines.openvino.extensions import core
from djinn_fx.engines.openvino.integers import is_narrow
from djinn_fx.engines.optional import optional
from djinn_fx.errors import EngineError, useful_line

onnx = optional("onnx")
openvino = optional("openvino")
native = optional("openvino._pyopenvino")
_INFER = native.InferRequest

#: torch's names of element types: numpy's type code, and whether OpenVINO must be told the type.
_TYPES: dict[str, tuple[str, Any]] = {
    "float32": ("<f4", None),
    "float16": ("<f2", None),
    "bfloat16": ("<u2", openvino.Type.bf16),
    "int8": ("|i1", None),
    "int16": ("<i2", None),
    "int32": ("<i4", None),
    "int64": ("<i8", None),
    "uint8": ("|u1", None),
    "uint16": ("<u2", None),
    "uint32": ("<u4", None),
    "uint64": ("<u8", None),
    "bool": ("|b1", None),
}
#: By numpy's name of a type, torch's: what results may be offered memory for.
_DTYPES = {
    str(torch.empty(0, dtype=one).numpy().dtype): one
    for one in (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)
}
#: Where tensors without elements are said to be.
_SOMEWHERE = torch.empty(8)
#: Buffers of one output that are kept for later calls.
_MAX_BUFFERS = 3


def settings(threads: int, precision: str, graph: Any = None) -> dict[str, Any]:
    """How a model is compiled: for one call at a time; float32 is float32 unless allowed otherwise.

    Raises:
        EngineError: it cannot be right.
    """
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if min(threads, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads) == 1:
        # With one thread OpenVINO 2026.4 dies (SIGSEGV) while it looks for two linear layers in a row to fuse; without
        # snippets it cuts numbers off where they become bfloat16, instead of rounding them.
        kinds = [(one.get_type_name(), one.get_output_element_type(0)) for one in graph.get_ops()] if graph else []
        several = sum(kind == "MatMul" for kind, _ in kinds) > 1
        halves = any(element == openvino.Type.bf16 for _, element in kinds)
        if halves and several:
            raise EngineError("OpenVINO does not round to bfloat16 on one thread")
        if not halves:
            chosen["SNIPPETS_MODE"] = "DISABLE"
    if precision == "exact":
        chosen["INFERENCE_PRECISION_HINT"] = "f32"
        chosen["KV_CACHE_PRECISION"] = "f32"
    return chosen


class OpenVinoSession:
    """An open model; see :class:`djinn_fx.engines.bound.region.Session`.

    Args:
        model: the model's bytes; every input of the region is an input of it.
        signature: of the model.
        weights: by place: what is constant from now on.
        threads: that it runs on.
        precision: as the setting of that name.
        label: of the region, for messages.

    Raises:
        EngineError: OpenVINO does not take the model.
    """

    def __init__(
        self,
        model: bytes,
        signature: Signature,
        weights: Mapping[int, torch.Tensor],
        *,
        threads: int,
        precision: str,
        label: str,
    ) -> None:
        self._label = label
        wiring = Wiring(signature, weights)
        named, fed = wiring.named, wiring.fed
        try:
            proto = onnx.ModelProto.FromString(model)
            shared = write_in_place(proto.graph, signature) if signature.writes_first else {}
            graph = core().read_model(proto.SerializeToString())
            compressed = _bind(graph, named, compresses=precision == "allow-int8-weights")
            rest = {name: weight for name, weight in named.items() if name not in compressed}
            self.memory_bytes = packed_bytes(proto.graph, rest) + sum(compressed.values())
            how = settings(threads, precision, graph)
            keep_exact(graph, snippets="SNIPPETS_MODE" not in how)
            self._compiled = core().compile_model(graph, "CPU", how)
        except Exception as error:
            raise EngineError(f"openvino: cannot open {label}: {useful_line(error)}") from error
        give_back(self.memory_bytes)
        self._kept = named
        if not all(map(is_narrow, named.values())):
            raise EngineError(f"openvino: {label}: a weight holds numbers beyond OpenVINO's 32 bits")
        self._feeder, self._finisher, self._checked = wiring.feeder, wiring.finisher, wiring.checked
        # OpenVINO drops what it finds unused; a tensor may have several names.
        index = {name: place for place, port in enumerate(self._compiled.inputs) for name in port.get_names()}
        self._used = [place for place, one in enumerate(fed) if one.name in index]
        self._inputs = [_Input(fed[place], index[fed[place].name]) for place in self._used]
        if len({one.index for one in self._inputs}) != len(self._compiled.inputs):
            raise EngineError(f"openvino: {label}: the compiled model's inputs are not the model's")
        self._all_used = len(self._used) == len(fed)
        used = [fed[place] for place in self._used]
        shared = {argument: output for argument, output in shared.items() if argument in {one.place for one in used}}
        self._in_place = InPlace(shared, signature, used) if shared else None
        self._requests: list[_Request] = []

    def run(self, args: list[Any]) -> list[Any]:
        """The region's results.

        Raises:
            EngineError: OpenVINO failed; nothing was written.
            Declined: see :class:`djinn_fx.engines.bound.region.Session`.
        """
        self._checked(args)
        tensors = self._feeder.tensors(args)
        if not self._all_used:
            tensors = [tensors[place] for place in self._used]
        written = self._in_place is not None and self._in_place.may(args, tensors)
        try:
            # One thread at a time has a request; list.pop and list.append are atomic.
            request = self._requests.pop()
        except IndexError:
            request = _Request(self._compiled, self._inputs)
        try:
            into = self._in_place.outputs if written and self._in_place is not None else _NONE
            outputs = request.run(tensors, into, self._finisher.offers(args))
        except Exception as error:
            raise EngineError(f"openvino: {self._label}: {useful_line(error)}") from error
        try:
            if written and self._in_place is not None:
                self._finisher.check(outputs)
                self._in_place.finish(args, outputs)
            return self._finisher.results(outputs, args, written)
        finally:
            self._requests.append(request)


class _Input:
    """How one input is set."""

    def __init__(self, fed: Fed, index: int) -> None:
        self.index = index
        self.code, self.type = _TYPES[fed.dtype]

    def tensor(self, pointer: int, shape: tuple[int, ...]) -> Any:
        """A tensor of OpenVINO over this memory, which it does not keep alive."""
        array = np.asarray(_Memory(pointer, shape, self.code))
        if self.type is None:
            return native.Tensor(array, True)
        return native.Tensor(array, shape, self.type)


class _Memory:
    """Memory as numpy's array interface describes it."""

    __slots__ = ("__array_interface__",)

    def __init__(self, pointer: int, shape: tuple[int, ...], code: str) -> None:
        where = pointer or _SOMEWHERE.data_ptr()
        self.__array_interface__ = {"shape": shape, "typestr": code, "data": (where, False), "version": 3}


class _Buffer:
    """Memory for one output, and whether a result handed out earlier still shows it.

    Args:
        tensor: of OpenVINO.
        shown: what results refer to: their holding it is how one tells.
    """

    __slots__ = ("_idle", "shown", "tensor")

    def __init__(self, tensor: Any, shown: Any) -> None:
        self.tensor, self.shown = tensor, shown
        self._idle = 0

    def settle(self) -> None:
        """Say that nobody reads it now."""
        self._idle = self._references()

    def is_free(self) -> bool:
        """Whether nobody reads it any more."""
        return self._references() == self._idle

    def _references(self) -> int:
        return sys.getrefcount(self.shown)


class _Output:
    """Memory for one output of a request, call after call."""

    def __init__(self, port: Any) -> None:
        self._element = port.get_element_type()
        shape = port.get_partial_shape()
        self._fixed = tuple(shape.to_shape()) if shape.is_static else None
        self._rank = 0 if shape.rank.is_dynamic else shape.rank.get_length()
        self._bfloat16 = self._element == openvino.Type.bf16
        self._buffers: list[_Buffer] = []
        #: Memory that the latest call offered, and the buffer over it.
        self._latest: tuple[torch.Tensor, _Buffer] | None = None

    def free(self) -> _Buffer:
        """A buffer that nobody reads."""
        for buffer in self._buffers:
            if buffer.is_free():
                return buffer
        if len(self._buffers) == _MAX_BUFFERS:
            del self._buffers[0]
        self._buffers.append(self._new())
        self._buffers[-1].settle()
        return self._buffers[-1]

    def offered(self, offer: torch.Tensor | None) -> _Buffer | None:
        """A buffer over memory that a call offers; None if there is none, or it is not for this output."""
        if offer is None or self._bfloat16:
            return None
        if self._latest is None or self._latest[0] is not offer:
            dtype = _DTYPES.get(str(self._element.to_dtype()))
            value = shaped(offer, self._fixed, dtype)
            if value is None:
                return None
            array = value.numpy()
            self._latest = offer, _Buffer(native.Tensor(array, self._fixed, self._element), array)
        return self._latest[1]

    def _new(self) -> _Buffer:
        if self._fixed is None:
            tensor = native.Tensor(self._element, openvino.Shape([0] * self._rank))
            return _Buffer(tensor, tensor)
        code = np.dtype(np.uint16) if self._bfloat16 else np.dtype(self._element.to_dtype())
        size = math.prod(self._fixed) * code.itemsize
        # Not numpy's memory: torch's is aligned as vector units like it.
        array = torch.empty(max(size, 1), dtype=torch.uint8).numpy()[:size].view(code).reshape(self._fixed)
        return _Buffer(native.Tensor(array, self._fixed, self._element), array)

    def result(self, buffer: _Buffer) -> torch.Tensor:
        """What OpenVINO has written, as a tensor of torch; while that lives, the buffer is not free."""
        found = torch.from_numpy(buffer.shown if self._fixed is not None else buffer.shown.data)
        return found.view(torch.bfloat16) if self._bfloat16 else found


class _Request:
    """An inference request and what is set on it. Used by one thread at a time."""

    def __init__(self, compiled: Any, inputs: list[_Input]) -> None:
        self._request = compiled.create_infer_request()
        self._inputs = inputs
        self._at: list[tuple[int, Any]] = [(-1, None)] * len(inputs)
        self._given: list[Any] = [None] * len(inputs)
        self._outputs = [_Output(port) for port in compiled.outputs]
        self._set: list[Any] = [None] * len(self._outputs)

    def run(
        self, tensors: list[torch.Tensor], written: dict[int, int], offers: Mapping[int, torch.Tensor]
    ) -> list[Any]:
        """The model's outputs, each in memory of its own.

        Args:
            tensors: the inputs.
            written: by output, the input in whose memory it is to be written; such an output is None in the result.
            offers: by output, memory that it may be written into.
        """
        moved: dict[int, Any] = {}
        for place, tensor in enumerate(tensors):
            at = (tensor.data_ptr(), tensor.shape)
            if self._at[place] != at:
                one = self._inputs[place]
                moved[one.index] = self._given[place] = one.tensor(*at)
                self._at[place] = at
        if moved:
            _INFER.set_input_tensors(self._request, moved)
        buffers = [
            None if place in written else one.offered(offers.get(place)) or one.free()
            for place, one in enumerate(self._outputs)
        ]
        targets = [
            self._given[written[place]] if buffer is None else buffer.tensor for place, buffer in enumerate(buffers)
        ]
        fresh = {place: target for place, target in enumerate(targets) if self._set[place] is not target}
        if fresh:
            _INFER.set_output_tensors(self._request, fresh)
            self._set = targets
        # In this thread: handing over to another costs more than the arrays that this makes of all outputs.
        _INFER.infer(self._request, _NOTHING, True, False)
        return [
            None if buffer is None else one.result(buffer) for one, buffer in zip(self._outputs, buffers, strict=True)
        ]


#: No more inputs to set.
_NOTHING: dict[int, Any] = {}
#: No outputs that are written where an input is.
_NONE: dict[int, int] = {}


def _bind(graph: Any, weights: Mapping[str, torch.Tensor], *, compresses: bool) -> dict[str, int]:
    """Turn these inputs of a model into constants over torch's memory.

    Args:
        graph: the model; changed.
        weights: by name.
        compresses: products may read them as 8-bit whole numbers.

    Returns:
        The bytes of those that products do read so, by name.
    """
    compressed: dict[str, int] = {}
    named = {name: parameter for parameter in graph.get_parameters() for name in parameter.output(0).get_names()}
    for name, weight in weights.items():
        parameter = named.get(name)
        if parameter is None:  # nothing reads it
            continue
        taken = compress(weight, parameter.output(0)) if compresses else 0
        if taken:
            compressed[name] = taken
        code, element = _TYPES[str(weight.dtype).removeprefix("torch.")]
        flat = weight.reshape(-1).view(torch.uint8).numpy().view(code) if weight.numel() else np.empty(0, code)
        array = flat.reshape(tuple(weight.shape))
        tensor = native.Tensor(array, True) if element is None else native.Tensor(array, array.shape, element)
        constant = openvino.op.Constant(tensor, shared_memory=True)
        constant.set_friendly_name(parameter.get_friendly_name())
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(constant.output(0))
        graph.remove_parameter(parameter)
    graph.validate_nodes_and_infer_types()
    return compressed
