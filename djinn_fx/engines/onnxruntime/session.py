"""A region's model opened by ONNX Runtime.

Arguments are read where torch has them and results are memory of ONNX Runtime's that torch takes over (DLPack), so
nothing is copied on the way. Weights that are constants are given as initializers over torch's memory; ONNX Runtime
adds what it packs of them.

All of it goes by the library's public interface: IO bindings and OrtValues. Binding costs about 1.6 µs for each input
that moved and each output. Handing over a vector of values costs half a microsecond for any number of them, but vectors
can be made only by the binding's inner layer: :mod:`djinn_fx.engines.onnxruntime.vectors` does that where it works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from djinn_fx.engines.bound.signature import Signature
from djinn_fx.engines.onnx.serving.inplace import InPlace, write_in_place
from djinn_fx.engines.onnx.serving.session import Wiring, give_back, packed_bytes, shaped
from djinn_fx.engines.onnxruntime import vectors as onnxruntime_vectors
from djinn_fx.engines.optional import optional
from djinn_fx.errors import EngineError, useful_line
from djinn_fx.threads import let_others_go_first

onnx = optional("onnx")
onnxruntime = optional("onnxruntime")

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
#: Types that numpy lacks, by the element type ONNX has for them.
_ONNX_TYPES = {"bfloat16": 16, "float8_e4m3fn": 17, "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20}
#: By ONNX Runtime's name of a type, torch's: what outputs may be offered memory for.
_RESULTS = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}
#: Integers with as many bytes: how numpy is handed elements of a type it lacks.
_BITS = {1: torch.uint8, 2: torch.int16}


def session_options(threads: int) -> Any:
    """How sessions are opened: one call at a time on this many threads, which spin during a call, not after it.

    Asleep they are woken for each operator, which takes 5 to 13 % of a call (decision 0044); spinning between two calls
    they would take the processors from torch's own.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    return options


class _OnceThreadsAreThere:
    """No optimisers. They are asked for between the start of the session's threads, which are to keep the priority of
    ordinary ones, and the work of opening: that lets calls go first.
    """

    def __iter__(self) -> Iterator[str]:
        let_others_go_first()
        return iter(())


class OrtSession:
    """An open model; see :class:`djinn_fx.engines.bound.region.Session`.

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
        wiring = Wiring(signature, weights)
        try:
            proto = onnx.ModelProto.FromString(model)
            shared = write_in_place(proto.graph, signature) if signature.writes_first else {}
            self.memory_bytes = _bind(proto.graph, wiring.named, options)
            providers = ["CPUExecutionProvider"]
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=providers, disabled_optimizers=_OnceThreadsAreThere()
            )
        except Exception as error:
            raise EngineError(f"onnxruntime: cannot open {label}: {useful_line(error)}") from error
        give_back(self.memory_bytes)
        self._weights = wiring.named  # ONNX Runtime reads them where they are, and does not own them
        fed = wiring.fed
        self._feeder, self._finisher, self._checked = wiring.feeder, wiring.finisher, wiring.checked
        self._names = [one.name for one in fed]
        self._types = [_element_type(one.dtype) for one in fed]
        outputs = self._session.get_outputs()
        self._outputs = [one.name for one in outputs]
        #: Sizes, where they are always the same, and type of each output.
        self._made = [(_fixed(one.shape), _RESULTS.get(one.type)) for one in outputs]
        self._bool_outputs = [place for place, one in enumerate(outputs) if one.type == "tensor(bool)"]
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = 4
        self._in_place = InPlace(shared, signature, fed) if shared else None
        has_numpy_types = all(one.dtype in _NUMPY_TYPES for one in fed)
        self._vectors = onnxruntime_vectors.usable() if has_numpy_types else None
        self._bindings: list[_Binding] = []
        self._bindings_in_place: list[_Binding] = []

    def run(self, args: list[Any]) -> list[Any]:
        """The region's results.

        Raises:
            EngineError: ONNX Runtime failed; nothing was written but what eager writes again.
            Declined: see :class:`djinn_fx.engines.bound.region.Session`.
        """
        self._checked(args)
        tensors = self._feeder.tensors(args)
        written = self._in_place is not None and self._in_place.may(args, tensors)
        try:
            offers = {} if written else self._finisher.offers(args)
            found = self._run_into(tensors, offers) if offers else self._run(tensors, written)
        except Exception as error:
            raise EngineError(f"onnxruntime: {self._label}: {useful_line(error)}") from error
        if written and self._in_place is not None:
            self._finisher.check(found)
            self._in_place.finish(args, found)
        return self._finisher.results(found, args, written)

    def _run(self, tensors: list[torch.Tensor], written: bool) -> list[Any]:
        if written or self._vectors is None:
            found = self._run_bound(tensors, written)
        else:
            feeds = self._vectors.of(tensors, self._types)
            found = self._vectors.run(self._session, self._options, self._names, feeds, self._outputs)
        return self._as_torch_has_them(found)

    def _run_into(self, tensors: list[torch.Tensor], offers: Mapping[int, torch.Tensor]) -> list[Any]:
        """Run with outputs in memory that the call offers, where it is for them."""
        found: list[Any] = [None] * len(self._outputs)
        binding = self._session.io_binding()
        for name, kind, tensor in zip(self._names, self._types, tensors, strict=True):
            binding.bind_input(name, "cpu", 0, kind, tensor.shape, tensor.data_ptr() or _SOMEWHERE.data_ptr())
        for place, (name, (sizes, dtype)) in enumerate(zip(self._outputs, self._made, strict=True)):
            value = shaped(offers[place], sizes, dtype) if place in offers else None
            if value is None:
                binding.bind_output(name, "cpu", 0)
                continue
            found[place] = value
            kind = _element_type(str(dtype).removeprefix("torch."))
            binding.bind_output(name, "cpu", 0, kind, tuple(value.shape), value.data_ptr())
        self._session.run_with_iobinding(binding, self._options)
        made = binding.get_outputs_as_ortvaluevector()
        for place, one in enumerate(found):
            found[place] = _FROM_DLPACK(made.dlpack_at(place)) if one is None else one
        return self._as_torch_has_them(found)

    def _as_torch_has_them(self, found: list[Any]) -> list[Any]:
        for place in self._bool_outputs:  # 1.31 hands booleans over as bytes
            if found[place] is not None:
                found[place] = found[place].view(torch.bool)
        for place, one in enumerate(found):  # 1.32 gives tensors without elements strides of zero
            if one is not None and not one.numel():
                found[place] = one.new_empty(one.shape)
        return found

    def _run_bound(self, tensors: list[torch.Tensor], written: bool) -> list[Any]:
        """Run by a binding. If caches are written where they are, their outputs are None."""
        free = self._bindings_in_place if written else self._bindings
        try:
            # One thread at a time has a binding; list.pop and list.append are atomic.
            binding = free.pop()
        except IndexError:
            into = self._in_place.outputs if written and self._in_place is not None else {}
            binding = _Binding(self._session, self._names, self._types, self._outputs, into)
        found = binding.run(self._session, self._options, tensors)
        free.append(binding)
        return found


class _Binding:
    """What a session reads and writes, bound once for as long as it stays where it is. Used by one thread at a time.

    Args:
        written: by output, which input's memory it is written into.
    """

    def __init__(self, session: Any, names: list[str], types: list[Any], outputs: list[str], written: dict[int, int]):
        self._binding = session.io_binding()
        self._names, self._types = names, types
        self._by_input = {place: outputs[output] for output, place in written.items()}
        self._fresh = [(place, name) for place, name in enumerate(outputs) if place not in written]
        self._count = len(outputs)
        for name in outputs:  # the order of binding is the order in which they are found
            self._binding.bind_output(name, "cpu", 0)
        self._at: list[tuple[int, Any]] = [(-1, None)] * len(names)

    def run(self, session: Any, options: Any, tensors: list[torch.Tensor]) -> list[Any]:
        """The outputs; None for those that were written into arguments."""
        binding = self._binding
        for place, tensor in enumerate(tensors):
            at = (tensor.data_ptr(), tensor.shape)
            if self._at[place] != at:
                self._at[place] = at
                self._bind(place, at[1], at[0] or _SOMEWHERE.data_ptr())
        session.run_with_iobinding(binding, options)
        made = binding.get_outputs_as_ortvaluevector()
        found: list[Any] = [None] * self._count
        for place, _ in self._fresh:
            found[place] = _FROM_DLPACK(made.dlpack_at(place))
        for _, name in self._fresh:  # memory of its own for each call: this one's is now the caller's
            binding.bind_output(name, "cpu", 0)
        return found

    def _bind(self, place: int, shape: Any, pointer: int) -> None:
        self._binding.bind_input(self._names[place], "cpu", 0, self._types[place], shape, pointer)
        if place in self._by_input:
            self._binding.bind_output(self._by_input[place], "cpu", 0, self._types[place], shape, pointer)


#: Where tensors without elements are said to be: torch says nowhere, which ONNX Runtime does not take.
_SOMEWHERE = torch.empty(8)
_FROM_DLPACK: Callable[[Any], torch.Tensor] = torch._C._from_dlpack


def _fixed(shape: Sequence[Any]) -> tuple[int, ...] | None:
    return tuple(shape) if all(type(size) is int for size in shape) else None


def _element_type(name: str) -> Any:
    """How a binding is told torch's type of that name.

    Raises:
        EngineError: ONNX Runtime has no such type.
    """
    found = _NUMPY_TYPES.get(name, _ONNX_TYPES.get(name))
    if found is None:
        raise EngineError(f"onnxruntime: there is no type for {name}")
    return found


def _shared(weight: torch.Tensor, element_type: int) -> Any:
    """A weight as a value over the same memory, which must outlive it."""
    if str(weight.dtype).removeprefix("torch.") in _NUMPY_TYPES:
        return onnxruntime.OrtValue.ortvalue_from_numpy(weight.numpy())
    bits = weight.view(_BITS[weight.element_size()]).numpy()
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, element_type)


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
        shared[name] = _shared(weight, types[name])
    if shared:
        options.add_external_initializers(list(shared), list(shared.values()))
    return packed_bytes(graph, weights)
