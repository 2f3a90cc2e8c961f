"""A region's model opened by ONNX Runtime. The only module that uses its Python binding's inner layer.

Arguments are read where torch has them and results are memory of ONNX Runtime's that torch takes over (DLPack), so
nothing is copied on the way. Weights that are constants are given as initializers over torch's memory; ONNX Runtime
adds what it packs of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from djinn_fx.engines.feeding import Feeder, plain
from djinn_fx.engines.onnx.signature import Signature
from djinn_fx.engines.onnx_inplace import InPlace, write_in_place
from djinn_fx.engines.onnx_session import Finisher, first_line, give_back, packed_bytes
from djinn_fx.engines.optional import Missing, optional
from djinn_fx.errors import EngineError

onnx = optional("onnx")
onnxruntime = optional("onnxruntime")
native = optional("onnxruntime.capi._pybind_state")

#: Weights up to this many bytes are written into the model: the optimizer sees their values.
_INLINE_BYTES = 512

_NUMPY_TYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}


def session_options(threads: int) -> Any:
    """How sessions are opened: one call at a time on this many threads, which do not spin when there is nothing to do.

    Threads that spin take the processors from torch's own between two calls.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    return options


class OrtSession:
    """An open model; see :class:`djinn_fx.engines.bound.Session`.

    Args:
        model: the model's bytes; every input of the region is an input of it.
        signature: of the model.
        weights: by place: what is constant from now on.
        threads: that it runs on.
        label: of the region, for messages.

    Raises:
        EngineError: ONNX Runtime does not take the model.
    """

    def __init__(
        self,
        model: bytes,
        signature: Signature,
        weights: Mapping[int, torch.Tensor],
        *,
        threads: int,
        label: str,
    ) -> None:
        self._label = label
        options = session_options(threads)
        named = {one.name: plain(weights[one.place]) for one in signature.fed if one.place in weights}
        try:
            proto = onnx.ModelProto.FromString(model)
            shared = write_in_place(proto.graph, signature) if signature.flag is None else {}
            self.memory_bytes = _bind(proto.graph, named, options)
            providers = ["CPUExecutionProvider"]
            self._public = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=providers)
        except Exception as error:
            raise EngineError(f"onnxruntime: cannot open {label}: {first_line(error)}") from error
        give_back(self.memory_bytes)
        self._session = self._public._sess
        fed = [one for one in signature.fed if one.place not in weights]
        self._feeder, self._finisher = Feeder(fed), Finisher(signature)
        self._names = [one.name for one in fed]
        self._types = [_NUMPY_TYPES.get(one.dtype) for one in fed]
        self._pushes = self._push_all if None not in self._types else self._push_each
        self._bools = [one.dtype == "bool" for one in fed]
        self._outputs = [one.name for one in self._session.outputs_meta]
        self._bool_outputs = [k for k, one in enumerate(self._session.outputs_meta) if one.type == "tensor(bool)"]
        self._in_devices, self._out_devices = [_CPU] * len(fed), [_CPU] * len(self._outputs)
        self._options = native.RunOptions()
        self._options.log_severity_level = 4
        self._in_place = InPlace(shared, signature, fed) if shared and None not in self._types else None
        self._bindings: list[_Binding] = []

    def run(self, args: list[Any]) -> list[Any]:
        """The region's results.

        Raises:
            EngineError: ONNX Runtime failed; nothing was written but what eager writes again.
            Declined: see :class:`djinn_fx.engines.bound.Session`.
        """
        tensors = self._feeder.tensors(args)
        written = self._in_place is not None and self._in_place.may(args, tensors)
        try:
            found = self._run_bound(tensors) if written else self._run(tensors)
        except Exception as error:
            raise EngineError(f"onnxruntime: {self._label}: {first_line(error)}") from error
        if written and self._in_place is not None:
            self._in_place.finish(args, found)
        return self._finisher.results(found, args, written)

    def _run(self, tensors: list[torch.Tensor]) -> list[Any]:
        outputs = native.OrtValueVector()
        self._session.run_with_ortvaluevector(
            self._options, self._names, self._pushes(tensors), self._outputs, outputs, self._out_devices
        )
        return self._typed(outputs.to_dlpacks(_FROM_DLPACK))

    def _typed(self, found: list[Any]) -> list[Any]:
        for place in self._bool_outputs:  # DLPack has no such type here
            if found[place] is not None:
                found[place] = found[place].view(torch.bool)
        return found

    def _run_bound(self, tensors: list[torch.Tensor]) -> list[Any]:
        """Run with caches written where they are; their outputs are None."""
        assert self._in_place is not None
        try:
            # One thread at a time has a binding; list.pop and list.append are atomic.
            binding = self._bindings.pop()
        except IndexError:
            binding = _Binding(self._session, self._names, self._types, self._outputs, self._in_place.outputs)
        found = binding.run(self._session, self._options, tensors)
        self._bindings.append(binding)
        return self._typed(found)

    def _push_all(self, tensors: list[torch.Tensor]) -> Any:
        """The tensors as ONNX Runtime's values, in one call."""
        values = native.OrtValueVector()
        pointers = [t.data_ptr() or _SOMEWHERE.data_ptr() for t in tensors]
        values.push_back_batch(tensors, pointers, self._types, [t.shape for t in tensors], self._in_devices)
        return values

    def _push_each(self, tensors: list[torch.Tensor]) -> Any:
        """The same where one has a type that numpy lacks (bfloat16)."""
        values = native.OrtValueVector()
        for tensor, is_bool in zip(tensors, self._bools, strict=True):
            values.push_back(_TO_DLPACK(tensor.detach()), is_bool)
        return values


class _Binding:
    """What a session reads and writes, bound once for as long as it stays where it is. Used by one thread at a time.

    Args:
        written: by output, which input's memory it is written into.
    """

    def __init__(self, session: Any, names: list[str], types: list[Any], outputs: list[str], written: dict[int, int]):
        self._binding = native.SessionIOBinding(session)
        self._names, self._types, self._written = names, types, written
        self._by_input = {place: outputs[output] for output, place in written.items()}
        self._fresh = [(place, name) for place, name in enumerate(outputs) if place not in written]
        self._count = len(outputs)
        for name in outputs:  # the order of binding is the order in which they are found
            self._binding.bind_output(name, _CPU)
        self._at: list[tuple[int, Any]] = [(-1, None)] * len(names)

    def run(self, session: Any, options: Any, tensors: list[torch.Tensor]) -> list[Any]:
        """The outputs; None for those that were written into arguments."""
        binding = self._binding
        for place, tensor in enumerate(tensors):
            at = (tensor.data_ptr(), tensor.shape)
            if self._at[place] != at:
                self._at[place] = at
                pointer = at[0] or _SOMEWHERE.data_ptr()
                binding.bind_input(self._names[place], _CPU, self._types[place], at[1], pointer)
                if place in self._by_input:
                    binding.bind_output(self._by_input[place], _CPU, self._types[place], at[1], pointer)
        for _, name in self._fresh:
            binding.bind_output(name, _CPU)  # memory of its own for each call: the last one's is somebody's
        session.run_with_iobinding(binding, options)
        made = binding.get_outputs()
        found: list[Any] = [None] * self._count
        for place, _ in self._fresh:
            found[place] = _FROM_DLPACK(made.dlpack_at(place))
        return found


_CPU = (
    native.OrtDevice(native.OrtDevice.cpu(), native.OrtDevice.default_memory(), 0)
    if not isinstance(native, Missing)
    else None
)
#: Where tensors without elements are said to be: torch says nowhere, which ONNX Runtime does not take.
_SOMEWHERE = torch.empty(8)
_TO_DLPACK: Callable[[torch.Tensor], Any] = torch._C._to_dlpack
_FROM_DLPACK: Callable[[Any], torch.Tensor] = torch._C._from_dlpack


def _bind(graph: Any, weights: Mapping[str, torch.Tensor], options: Any) -> int:
    """Turn these inputs of a graph into initializers; their values go into the options.

    Returns:
        The bytes of weights that will be packed.
    """
    rest = [one for one in graph.input if one.name not in weights]
    types = {one.name: one.type.tensor_type.elem_type for one in graph.input}
    del graph.input[:]
    graph.input.extend(rest)
    shared: dict[str, Any] = {}
    for name, weight in weights.items():
        entry = graph.initializer.add()
        entry.name, entry.data_type = name, types[name]
        entry.dims.extend(weight.shape)
        if weight.nbytes <= _INLINE_BYTES:
            entry.raw_data = weight.reshape(-1).view(torch.uint8).numpy().tobytes()
            continue
        entry.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "torch"), ("offset", "0"), ("length", str(weight.nbytes))):
            part = entry.external_data.add()
            part.key, part.value = key, value
        is_bool = (
            weight.dtype is torch.bool
        )  # handed over as bytes: ONNX Runtime does not read DLPack's own type for it
        bytes_of = _TO_DLPACK(weight.view(torch.uint8) if is_bool else weight)
        shared[name] = onnxruntime.OrtValue(native.OrtValue.from_dlpack(bytes_of, is_bool))
    if shared:
        options.add_external_initializers(list(shared), list(shared.values()))
    return packed_bytes(graph, weights)
