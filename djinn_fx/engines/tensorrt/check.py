"""Whether a network description holds together, before TensorRT (which trusts its caller) sees it. Plain Python."""

from __future__ import annotations

import math

from djinn_fx.engines.tensorrt import layers, layers_nn  # noqa: F401 (they fill the table of kinds)
from djinn_fx.engines.tensorrt.kinds import KINDS
from djinn_fx.engines.tensorrt.network import DTYPE_BYTES, MAX_RANK, Layer, Network, Tensor
from djinn_fx.pool.jobs import BuildError

#: Elements of one value: TensorRT multiplies sizes in int64.
_MOST_ELEMENTS = 2**48


def check(network: Network) -> None:
    """A description's numbers are in range, its symbols have ranges, its constants have their bytes.

    Raises:
        BuildError: stage ``convert``; says where it is broken.
    """
    _symbols(network)
    if not network.inputs:
        raise _broken("it has no inputs")
    for index, tensor in enumerate(network.inputs):
        _tensor(tensor, f"input {index}", "")
        for size in tensor.shape:
            if isinstance(size, str) and size not in network.symbols:
                raise _broken(
                    f"input {index} has the size {size!r}: only numbers and symbols with a range can be given"
                )
    count = len(network.inputs)
    for position, layer in enumerate(network.layers):
        _layer(layer, position, count, network)
        count += len(layer.outputs)
    if not network.outputs or len(set(map(repr, network.outputs))) != len(network.outputs):
        raise _broken("it gives nothing back, or something twice")
    for number in network.outputs:
        if not _index(number, count) or number < len(network.inputs):
            raise _broken(f"output {number!r} is no layer's value")


def _broken(detail: str, node: str = "") -> BuildError:
    return BuildError(f"the network description is broken: {detail}", stage="convert", node=node)


def _index(number: object, count: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < count


def _symbols(network: Network) -> None:
    for name, known in network.symbols.items():
        ends = (known.least, known.usual, known.most)
        whole = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
        if not isinstance(name, str) or not name or name == "?" or not whole or not 0 <= ends[0] <= ends[1] <= ends[2]:
            raise _broken(f"symbol {name!r} ranges over {list(ends)}")
        if ends[2] >= 2**31:
            raise _broken(f"symbol {name!r} goes up to {ends[2]}; TensorRT's sizes end at {2**31 - 1}")


def _tensor(tensor: Tensor, what: str, node: str) -> None:
    if tensor.dtype not in DTYPE_BYTES:
        raise _broken(f"{what} is of type {tensor.dtype!r}", node)
    if len(tensor.shape) > MAX_RANK:
        raise _broken(f"{what} has {len(tensor.shape)} dimensions, TensorRT's limit is {MAX_RANK}", node)
    for size in tensor.shape:
        if isinstance(size, bool) or not isinstance(size, int | str) or (isinstance(size, int) and size < 0):
            raise _broken(f"{what} has the size {size!r}", node)
        if isinstance(size, int) and size >= 2**31:
            raise _broken(f"{what} has the size {size}; TensorRT's sizes end at {2**31 - 1}", node)
    if math.prod(size for size in tensor.shape if isinstance(size, int)) > _MOST_ELEMENTS:
        raise _broken(f"{what} has more elements than any GPU holds", node)


def _layer(layer: Layer, position: int, count: int, network: Network) -> None:
    where = f"layer {position} ({layer.kind})"
    kind = KINDS.get(layer.kind)
    if kind is None:
        raise _broken(f"there is no kind of layer {layer.kind!r}", layer.node)
    least, most = kind.inputs
    if not least <= len(layer.inputs) <= most:
        raise _broken(f"{where} has {len(layer.inputs)} inputs, not {least} to {most}", layer.node)
    for place, number in enumerate(layer.inputs):
        if number is None and place >= kind.needed:
            continue
        if not _index(number, count):
            raise _broken(f"{where}: input {place} is value {number!r}, not one of the {count} before it", layer.node)
    if len(layer.outputs) != kind.outputs:
        raise _broken(f"{where} has {len(layer.outputs)} outputs, not {kind.outputs}", layer.node)
    for place, tensor in enumerate(layer.outputs):
        _tensor(tensor, f"{where}: output {place}", layer.node)
    if layer.kind == "constant":
        _constant(layer, where, network)


def _constant(layer: Layer, where: str, network: Network) -> None:
    """The bytes are there: TensorRT would read past them."""
    blob, dtype, shape = (layer.attributes.get(name) for name in ("blob", "dtype", "shape"))
    if not _index(blob, len(network.blobs)):
        raise _broken(f"{where}: there is no blob {blob!r}", layer.node)
    output = layer.outputs[0]
    if dtype != output.dtype or not isinstance(shape, list | tuple) or tuple(shape) != tuple(output.shape):
        raise _broken(f"{where} is {dtype} {shape}, its output {output.dtype} {list(output.shape)}", layer.node)
    if any(isinstance(size, str) for size in output.shape):
        raise _broken(f"{where}: a constant has a symbol for a size", layer.node)
    wanted = math.prod(int(size) for size in output.shape) * DTYPE_BYTES[output.dtype]
    assert isinstance(blob, int)
    if len(network.blobs[blob]) != wanted:
        raise _broken(f"{where}: {len(network.blobs[blob])} bytes given, {wanted} needed", layer.node)
