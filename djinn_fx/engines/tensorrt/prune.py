"""Leaving away layers that nothing reads."""

from __future__ import annotations

from dataclasses import replace

from djinn_fx.engines.tensorrt.network import Layer, Network


def pruned(network: Network) -> Network:
    """The same network without layers that no output needs; values and blobs are numbered anew."""
    first = len(network.inputs)
    made: list[tuple[int, Layer]] = []
    for layer in network.layers:
        made.append((first, layer))
        first += len(layer.outputs)
    needed = set(network.outputs)
    kept: list[tuple[int, Layer]] = []
    for number, layer in reversed(made):
        if any(number + place in needed for place in range(len(layer.outputs))):
            needed.update(one for one in layer.inputs if one is not None)
            kept.append((number, layer))
    kept.reverse()
    numbers = {index: index for index in range(len(network.inputs))}
    layers: list[Layer] = []
    blobs: dict[bytes, int] = {}
    count = len(network.inputs)
    for number, layer in kept:
        for place in range(len(layer.outputs)):
            numbers[number + place] = count + place
        count += len(layer.outputs)
        attributes = dict(layer.attributes)
        if layer.kind == "constant":
            attributes["blob"] = blobs.setdefault(network.blobs[attributes["blob"]], len(blobs))
        inputs = tuple(None if one is None else numbers[one] for one in layer.inputs)
        layers.append(replace(layer, inputs=inputs, attributes=attributes))
    return replace(
        network,
        layers=tuple(layers),
        outputs=tuple(numbers[one] for one in network.outputs),
        blobs=tuple(blobs),
    )
