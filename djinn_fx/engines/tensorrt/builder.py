"""What a child process runs for the TensorRT engine: the plan's builder, and with the plan, how it is called.

The direct road imports no torch: the network and the mapping come with the request. The road through ONNX imports
torch in the child, exports there, and lets TensorRT's parser read the model: seconds, and state of the whole process,
that the process which compiles is spared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from djinn_fx.engines.tensorrt import worker
from djinn_fx.engines.tensorrt.calling import Calling, Given, Limit, Made
from djinn_fx.engines.tensorrt.conversion import FromNetwork, Options
from djinn_fx.engines.tensorrt.network import Network, input_name, output_name
from djinn_fx.pool.jobs import BuildError


def build(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Build a plan from a network description.

    Args:
        request: as for :func:`djinn_fx.engines.tensorrt.worker.build`, and ``calling``.
        blobs: of the description.

    Returns:
        The worker's header with ``calling`` and ``builder``; the plan.

    Raises:
        BuildError: as the worker; also stage ``build``: the plan's tensors are not those of the mapping.
    """
    calling = _calling(request.get("calling"))
    header, plan = worker.build(request, blobs)
    return {**header, "builder": "network", "calling": named(calling, header).to_json()}, plan


def build_from_onnx(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Export a region as an ONNX model and build a plan of it.

    Args:
        request: ``form`` (the region's canonical form), ``hints``, ``conversion`` (options of the conversion), and
            ``flavour``, ``target``, ``options`` as for the worker.
        blobs: none.

    Raises:
        BuildError: stage ``convert``: it cannot be exported; else as the worker.
    """
    from djinn_fx.engines.tensorrt.onnx_fallback import convert_form
    from djinn_fx.engines.tensorrt.onnx_rewrite import Refused
    from djinn_fx.srg.form.rebuild import SizeHint

    hints = [SizeHint(value=value, positive=positive) for value, positive in request["hints"]]
    try:
        found = convert_form(request["form"], hints, Options(**request["conversion"]), verify=True)
    except Refused as error:
        raise BuildError(f"ONNX export: {error.detail}", stage="convert") from error
    asked = {key: request[key] for key in ("flavour", "target", "options")}
    header, plan = worker.build({**asked, **found.request()}, (found.model,))
    try:
        calling = _calling_of_onnx(found, header, len(request["form"]["inputs"]))
    except (KeyError, ValueError) as error:
        raise BuildError(f"the plan's tensors do not fit the model's: {error!r}", stage="build") from error
    return {**header, "builder": "onnx", "calling": calling.to_json()}, plan


def _calling(data: Any) -> Calling:
    try:
        return Calling.from_json(data)
    except ValueError as error:
        raise BuildError(str(error), stage="convert") from error


def named(calling: Calling, header: Mapping[str, Any]) -> Calling:
    """The mapping with the names the plan gives its tensors.

    Raises:
        BuildError: the plan has other tensors than the mapping.
    """
    told = (header["inputs"], header["outputs"])
    types = ([one.dtype for one in calling.inputs], [one.dtype for one in calling.outputs])
    for theirs, ours in zip(told, types, strict=True):
        if [dtype for _, dtype, _ in theirs] != ours:
            raise BuildError(f"the plan's tensors are {theirs}, of types {ours} in the mapping", stage="build")
    return replace(
        calling,
        inputs=tuple(replace(one, name=name) for one, (name, _, _) in zip(calling.inputs, told[0], strict=True)),
        outputs=tuple(replace(one, name=name) for one, (name, _, _) in zip(calling.outputs, told[1], strict=True)),
    )


def calling_of(conversion: Any, arguments: int) -> Calling:
    """The mapping of a :class:`~djinn_fx.engines.tensorrt.conversion.Conversion`; its tensors have no names yet."""
    network: Network = conversion.network
    shapes = {one.output: one.shape for one in conversion.outputs if isinstance(one, FromNetwork)}
    types = {one.output: one.dtype for one in conversion.outputs if isinstance(one, FromNetwork)}
    given = {number: one for one, number in zip(network.inputs, conversion.inputs, strict=True)}
    for copy in conversion.copies:
        types.setdefault(
            copy.output, given[copy.input].dtype if copy.input in given else _made_type(network, copy.output)
        )
    return Calling(
        arguments=arguments,
        inputs=tuple(
            Given(name=input_name(place), argument=argument, dtype=one.dtype, shape=tuple(one.shape))
            for place, (one, argument) in enumerate(zip(network.inputs, conversion.inputs, strict=True))
        ),
        outputs=tuple(
            Made(name=output_name(place), dtype=types[place], shape=shapes.get(place))
            for place in range(len(network.outputs))
        ),
        results=conversion.outputs,
        copies=conversion.copies,
        limits=tuple(
            Limit(symbol=name, least=known.least, most=known.most) for name, known in sorted(network.symbols.items())
        ),
    )


def _made_type(network: Network, output: int) -> str:
    values = [*network.inputs, *(tensor for layer in network.layers for tensor in layer.outputs)]
    return values[network.outputs[output]].dtype


def _calling_of_onnx(conversion: Any, header: Mapping[str, Any], arguments: int) -> Calling:
    """The mapping of an :class:`~djinn_fx.engines.tensorrt.onnx_fallback.OnnxConversion` and the plan made of it.

    Raises:
        ValueError, KeyError: the plan's tensors are not the model's.
    """
    places = {place: symbol for symbol, place in conversion.symbols.items()}
    given = {name: (dtype, shape) for name, dtype, shape in header["inputs"]}
    inputs = []
    for number, argument in enumerate(conversion.inputs):
        dtype, sizes = given.pop(input_name(number))
        shape = tuple(places.get((number, dim)) if size == -1 else size for dim, size in enumerate(sizes))
        inputs.append(Given(name=input_name(number), argument=argument, dtype=dtype, shape=shape))
    if given:
        raise ValueError(f"inputs {sorted(given)} are nobody's")
    made = {name: dtype for name, dtype, _ in header["outputs"]}
    shapes = {one.output: one.shape for one in conversion.outputs if isinstance(one, FromNetwork)}
    names = [output_name(number) for number in range(len(made))]
    outputs = [Made(name=name, dtype=made[name], shape=shapes.get(number)) for number, name in enumerate(names)]
    limits = [
        Limit(symbol=name, least=known.least, most=known.most)
        for name, known in sorted(conversion.ranges.items())
        if name in conversion.symbols
    ]
    return Calling(
        arguments=arguments,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        results=conversion.outputs,
        copies=conversion.copies,
        limits=tuple(limits),
    )
