"""From a network description to TensorRT's ``INetworkDefinition``; every shape and type is checked against it.

Needs TensorRT alone, neither torch nor numpy. TensorRT trusts its caller: a setter given nonsense says so in a log and
keeps its default, which would build another network than the one described. So every error that it logs ends the
assembly, and every layer's outputs are compared with what the description says they are.
"""

from __future__ import annotations

import ctypes
import math
import struct
import weakref
from collections.abc import Sequence
from typing import Any

from djinn_fx.engines.tensorrt.attributes import Attributes
from djinn_fx.engines.tensorrt.check import check
from djinn_fx.engines.tensorrt.flavour import messages, strongly_typed
from djinn_fx.engines.tensorrt.kinds import KINDS
from djinn_fx.engines.tensorrt.network import Layer, Network, Tensor, input_name, output_name
from djinn_fx.errors import useful_line
from djinn_fx.pool.jobs import BuildError

#: Bytes of the constants of each network: TensorRT reads them when it builds.
_KEPT: weakref.WeakKeyDictionary[Any, list[bytes]] = weakref.WeakKeyDictionary()

#: How numbers of a type are packed.
_PACKED = {"float32": "f", "int64": "q", "int32": "i"}


def layer_name(index: int, layer: Layer) -> str:
    """What TensorRT calls a layer. Graph nodes are no part of it: equal descriptions must give equal plans."""
    return f"[{index}] {layer.kind}"


class Assembly:
    """A network being assembled: what a layer's builder works with."""

    def __init__(self, trt: Any, network: Network, definition: Any, fused_attention: bool) -> None:
        self.trt, self.network, self.net, self.fused_attention = trt, network, definition, fused_attention
        self._messages = messages(trt)
        self._layer: Layer | None = None
        self._name, self._made = "", 0
        self._started = self._messages.mark()

    def start(self, index: int, layer: Layer) -> None:
        """What comes now belongs to this layer."""
        self._layer, self._name, self._made = layer, layer_name(index, layer), 0
        self._started = self._messages.mark()

    def error(self, detail: str) -> BuildError:
        """The error that says so about the layer being made, with what TensorRT said."""
        said = self._messages.since(self._started)
        kind = f"{self._layer.kind}: " if self._layer else ""
        text = kind + detail + ("; TensorRT says: " + " / ".join(said) if said else "")
        return BuildError(text, stage="convert", node=self._layer.node if self._layer else "")

    def add(self, method: str, *args: Any) -> Any:
        """Call ``INetworkDefinition.add_…``; the layer, named after the description's."""
        try:
            made = getattr(self.net, method)(*args)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise self.error(f"{method} refuses its arguments: {useful_line(error)}") from error
        if made is None:
            raise self.error(f"{method} makes no such layer")
        made.name = self._name + (f".{self._made}" if self._made else "")  # names must differ
        self._made += 1
        return made

    def set(self, made: Any, **values: Any) -> None:
        """Set properties of a layer."""
        for name, value in values.items():
            try:
                setattr(made, name, value)
            except (TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise self.error(f"{name} cannot be {value!r}: {useful_line(error)}") from error

    def dtype(self, name: str) -> Any:
        """TensorRT's element type of our name; it calls them the same."""
        return getattr(self.trt, name)

    def cast(self, value: Any, dtype: str) -> Any:
        """A value in another type; itself if it has it already."""
        wanted = self.dtype(dtype)
        return value if value.dtype == wanted else self.add("add_cast", value, wanted).get_output(0)

    def numbers(self, dtype: str, shape: Sequence[int], values: Sequence[float]) -> Any:
        """A constant of a few numbers."""
        try:
            return self.constant(dtype, shape, struct.pack(f"={len(values)}{_PACKED[dtype]}", *values))
        except (struct.error, OverflowError) as error:
            raise self.error(f"{list(values)} are no numbers of type {dtype}") from error

    def constant(self, dtype: str, shape: Sequence[int], data: bytes) -> Any:
        """A constant of row-major bytes; their number has been checked."""
        count, as_type = math.prod(shape), dtype
        if dtype == "bfloat16":  # widened, exactly, for others cannot read it, and cast by TensorRT
            wide = bytearray(4 * count)
            wide[2::4], wide[3::4] = data[0::2], data[1::2]
            data, as_type = bytes(wide), "float32"
        if count:
            _KEPT.setdefault(self.net, []).append(data)
            address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
            weights = self.trt.Weights(self.dtype(as_type), address, count)
        else:  # no address may be given for no values
            weights = self.trt.Weights(self.dtype(as_type))
        return self.cast(self.add("add_constant", tuple(shape), weights).get_output(0), dtype)

    def finish(self, made: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        """Compare what was made with what the description says, and stop at anything TensorRT complained of."""
        for value, told in zip(made, outputs, strict=True):
            try:
                shape = tuple(value.shape)
            except (RuntimeError, ValueError) as error:
                raise self.error("its inputs do not fit together") from error
            if value.dtype != self.dtype(told.dtype):
                raise self.error(f"gives {_short(value.dtype)}, the description says {told.dtype}")
            if not _agree(shape, told):
                raise self.error(f"gives {list(shape)}, the description says {list(told.shape)}")
        if self._messages.errors(self._started):
            raise self.error("TensorRT refuses a part of it")


def _short(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2].lower()


def _agree(shape: tuple[int, ...], told: Tensor) -> bool:
    """Whether the sizes TensorRT infers (-1: not known) can be the description's.

    A size that TensorRT knows and the description has a symbol for was baked in by mistake.
    """
    if len(shape) != len(told.shape):
        return False
    return all(size in (-1, wanted) or wanted == "?" for size, wanted in zip(shape, told.shape, strict=True))


def assemble(trt: Any, network: Network, builder: Any, *, fused_attention: bool = True) -> Any:
    """The strongly typed ``INetworkDefinition`` of a description.

    Inputs and outputs are called :func:`input_name` and :func:`output_name` of their index. Sizes that are symbols
    become -1, with one name for one symbol; their ranges come in by :func:`profile`.

    Args:
        trt: the flavour's module.
        network: the description; it is checked first, so it may come from a file.
        builder: made with the flavour's :func:`logger <djinn_fx.engines.tensorrt.flavour.logger>`.
        fused_attention: half-precision attention must be one kernel; the builder fails where TensorRT has none. False:
            it is computed in float32.

    Raises:
        BuildError: stage ``convert``: a layer is not as the description or TensorRT wants it; says which and why.
    """
    check(network)
    definition = strongly_typed(trt, builder)
    assembly = Assembly(trt, network, definition, fused_attention)
    values = [_input(assembly, index, tensor) for index, tensor in enumerate(network.inputs)]
    told = list(network.inputs)
    for index, layer in enumerate(network.layers):
        assembly.start(index, layer)
        given = [None if number is None else values[number] for number in layer.inputs]
        known = [None if number is None else told[number] for number in layer.inputs]
        attributes = Attributes(layer.attributes, layer.kind, layer.node)
        made = KINDS[layer.kind].build(assembly, layer, attributes, given, known)
        attributes.done()
        assembly.finish(made, layer.outputs)
        values.extend(made)
        told.extend(layer.outputs)
    for index, number in enumerate(network.outputs):
        values[number].name = output_name(index)
        definition.mark_output(values[number])
    for index in range(definition.num_inputs):
        if definition.get_input(index).is_shape_tensor:
            raise BuildError(f"the values of input {index} would decide sizes: refused", stage="convert")
    assembly.finish([], [])
    return definition


def _input(assembly: Assembly, index: int, tensor: Tensor) -> Any:
    shape = tuple(-1 if isinstance(size, str) else size for size in tensor.shape)
    value = assembly.net.add_input(input_name(index), assembly.dtype(tensor.dtype), shape)
    if value is None:
        raise assembly.error(f"input {index} of shape {list(tensor.shape)} is refused")
    for axis, size in enumerate(tensor.shape):
        if isinstance(size, str):  # one name for one symbol: TensorRT then knows that the sizes are equal
            value.set_dimension_name(axis, size)
    return value


def profile(network: Network, builder: Any) -> Any:
    """The optimization profile of the symbols' ranges; None if no input has a symbol.

    Raises:
        BuildError: stage ``convert``: TensorRT takes no such ranges.
    """
    if not any(isinstance(size, str) for tensor in network.inputs for size in tensor.shape):
        return None
    made = builder.create_optimization_profile()
    for index, tensor in enumerate(network.inputs):
        if not any(isinstance(size, str) for size in tensor.shape):
            continue
        least, usual, most = (
            tuple(getattr(network.symbols[size], end) if isinstance(size, str) else size for size in tensor.shape)
            for end in ("least", "usual", "most")
        )
        try:
            made.set_shape(input_name(index), least, usual, most)
        except (ValueError, RuntimeError) as error:
            detail = f"sizes from {list(least)} to {list(most)} of input {index} are refused: {error}"
            raise BuildError(detail, stage="convert") from error
    return made
