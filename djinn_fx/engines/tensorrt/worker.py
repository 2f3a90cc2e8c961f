"""Builds a TensorRT plan in a child process: from a network description, or from an ONNX model.

Imports TensorRT, neither torch nor numpy. The plan is a function of the request without graph nodes' names: there is no
timing cache, and layers are named by their place. It is the same byte for byte where all sizes are numbers; with
symbols, TensorRT may number some of their expressions otherwise from build to build (see
:mod:`djinn_fx.engines.tensorrt.apart` for what can be done about that).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.engines.tensorrt import assemble, parse_onnx
from djinn_fx.engines.tensorrt.apart import build_apart
from djinn_fx.engines.tensorrt.flavour import Flavour, flavour, logger, messages
from djinn_fx.engines.tensorrt.network import DTYPE_BYTES, Network, Range
from djinn_fx.pool.jobs import BuildError

#: Scratch memory a plan may ask for, unless the options say otherwise. The same on every machine, so that plans are.
WORKSPACE_BYTES = 64 << 30

#: What TensorRT says of attention that it has no kernel for and may not take apart.
_NO_ATTENTION = "Attention operation was not supported by a dedicated kernel"

#: Raised when a plan of the same request becomes another; part of every key.
WORKER_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a plan is built.

    Attributes:
        tf32: float32 products may be rounded to 10 bits before they are multiplied. Off: eager's are not.
        strict_nans: x - x and 0 * x are not taken for 0, which NaN and infinity would disprove.
        workspace_bytes: scratch memory a plan may ask for.
        reproducible: equal requests give equal bytes, nearly always, also where sizes depend on symbols, for a
            process more; see :mod:`djinn_fx.engines.tensorrt.apart`.
    """

    tf32: bool = False
    strict_nans: bool = True
    workspace_bytes: int = WORKSPACE_BYTES
    reproducible: bool = False


def build(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Build a plan.

    Args:
        request: ``flavour`` ("tensorrt" or "tensorrt_rtx"), ``target`` ("sm89", …; None: the GPU that is present),
            ``options`` (fields of :class:`Options`), and either ``network``
            (:meth:`~djinn_fx.engines.tensorrt.network.Network.to_json`), or ``onnx`` true with ``ranges``
            ({size's name: [least, usual, most]}).
        blobs: of the description; or the ONNX model alone.

    Returns:
        A header with ``engine``, ``flavour``, ``version``, ``target``, ``layers``, ``inputs`` and ``outputs`` (name,
        type, sizes with -1 for what changes from call to call), ``aliases`` ([output, input] names that share memory),
        ``warnings``; and the plan's bytes.

    Raises:
        BuildError: stage ``support``: this flavour or target is not to be had here; ``convert``: the description is
            broken or TensorRT refuses a layer; ``parse``: the same of an ONNX model; ``build``: no plan came out.
    """
    chosen, target, options = _asked(request)
    if options.reproducible:
        return build_apart(request, blobs)
    trt = chosen.module
    mark = messages(trt).mark()
    builder = trt.Builder(logger(trt))
    config = _config(trt, builder, target, options)
    if request.get("onnx") is True:
        if len(blobs) != 1 or "network" in request:
            raise BuildError("an ONNX model is one blob, without a description", stage="parse")
        definition = parse_onnx.parse(trt, blobs[0], builder)
        profile = parse_onnx.profile(definition, _ranges(request.get("ranges", {})), builder)
        plan = _plan(builder, definition, config, profile)
        if plan is None:
            raise _failed(trt, mark, None)
    else:
        network = _network(request.get("network"), blobs)
        _check_target(network, target)
        definition = assemble.assemble(trt, network, builder)
        plan = _plan(builder, definition, config, assemble.profile(network, builder))
        if plan is None and any(_NO_ATTENTION in text for text in messages(trt).since(mark)):
            mark = messages(trt).mark()
            definition = assemble.assemble(trt, network, builder, fused_attention=False)
            config = _config(trt, builder, target, options)
            plan = _plan(builder, definition, config, assemble.profile(network, builder))
        if plan is None:
            raise _failed(trt, mark, network)
    header = {
        "engine": "tensorrt",
        "flavour": chosen.name,
        "version": str(trt.__version__),
        "target": target,
        "layers": definition.num_layers,
        "inputs": [_told(trt, definition.get_input(index)) for index in range(definition.num_inputs)],
        "outputs": [_told(trt, definition.get_output(index)) for index in range(definition.num_outputs)],
        "aliases": _aliases(trt, definition),
        "warnings": list(messages(trt).since(mark)),
    }
    return header, plan


def _plan(builder: Any, definition: Any, config: Any, profile: Any) -> bytes | None:
    if profile is not None:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(definition, config)
    return None if plan is None else bytes(plan)


def _asked(request: Mapping[str, Any]) -> tuple[Flavour, str, Options]:
    """Flavour, target and options, if they can be had here."""
    name, target = request.get("flavour"), request.get("target")
    if not isinstance(name, str | None) or not isinstance(target, str | None):
        raise BuildError(f"flavour {name!r} and target {target!r} are no names", stage="support")
    try:
        chosen = flavour(name)
        why_not = chosen.why_not_target(target)
    except LookupError as error:
        raise BuildError(str(error), stage="support") from error
    if why_not:
        raise BuildError(why_not, stage="support")
    told = request.get("options") or {}
    known = {"tf32": bool, "strict_nans": bool, "workspace_bytes": int, "reproducible": bool}
    if not isinstance(told, Mapping) or any(
        key not in known or type(value) is not known[key] for key, value in told.items()
    ):
        raise BuildError(f"options {told!r} are not {', '.join(known)}", stage="support")
    options = Options(**told)
    if not 0 < options.workspace_bytes < 2**62:
        raise BuildError(f"a workspace of {options.workspace_bytes} bytes", stage="support")
    return chosen, target or "current", options


def _network(data: Any, blobs: Sequence[bytes]) -> Network:
    if not isinstance(data, Mapping):
        raise BuildError("the request has no network description", stage="convert")
    try:
        return Network.from_json(data, blobs)
    except (ValueError, AttributeError) as error:
        raise BuildError(f"the network description is broken: {error}", stage="convert") from error


def _ranges(data: Any) -> dict[str, Range]:
    try:
        ranges = {str(name): Range(least=a, usual=b, most=c) for name, (a, b, c) in data.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BuildError(f"ranges {data!r} are none", stage="parse") from error
    for name, known in ranges.items():
        ends = (known.least, known.usual, known.most)
        if any(type(end) is not int for end in ends) or not 0 <= ends[0] <= ends[1] <= ends[2] < 2**31:
            raise BuildError(f"size {name} ranges over {list(ends)}", stage="parse")
    return ranges


def _check_target(network: Network, target: str) -> None:
    """What a target has no kernels for, said before it costs anything and of the node that is to blame."""
    if target != "sm75":
        return
    values = list(network.inputs)
    for tensor in values:
        if tensor.dtype == "bfloat16":
            raise BuildError("sm75 has no bfloat16", stage="support")
    for layer in network.layers:
        types = [values[number].dtype for number in layer.inputs if type(number) is int and 0 <= number < len(values)]
        if "bfloat16" in (*types, *(tensor.dtype for tensor in layer.outputs)):
            raise BuildError("sm75 has no bfloat16", stage="support", node=layer.node)
        if layer.kind in ("matmul", "einsum") and "float32" in types:
            detail = "sm75 multiplies no float32 matrices in TensorRT; float16 it does"
            raise BuildError(detail, stage="support", node=layer.node)
        values.extend(layer.outputs)


def _config(trt: Any, builder: Any, target: str, options: Options) -> Any:
    config = builder.create_builder_config()
    for flag, wanted in (
        ("TF32", options.tf32),
        ("STRICT_NANS", options.strict_nans),
        ("DISABLE_TIMING_CACHE", True),
    ):
        member = getattr(trt.BuilderFlag, flag, None)
        if member is None and wanted:
            raise BuildError(f"this TensorRT has no {flag}", stage="support")
        if member is not None:
            (config.set_flag if wanted else config.clear_flag)(member)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if target != "current":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
    return config


def _failed(trt: Any, mark: int, network: Network | None) -> BuildError:
    """Why no plan came out; of the node whose layer TensorRT names, if it names one."""
    said = messages(trt).errors(mark) or messages(trt).since(mark) or ("it does not say why",)
    text = " / ".join(" ".join(one.split()) for one in said)
    node = ""
    if network is not None:
        named = re.search(r"\[(\d+)\] [a-z_]+", text)
        if named and int(named[1]) < len(network.layers):
            node = network.layers[int(named[1])].node
    return BuildError(f"TensorRT builds no plan: {text}", stage="build", node=node)


def _told(trt: Any, tensor: Any) -> list[Any]:
    dtype = next(name for name in DTYPE_BYTES if getattr(trt, name) == tensor.dtype)
    return [tensor.name, dtype, list(tensor.shape)]


def _aliases(trt: Any, definition: Any) -> list[list[str]]:
    """Outputs that a plan has in the memory of an input: updated caches."""
    pairs = []
    for index in range(definition.num_layers):
        layer = definition.get_layer(index)
        if str(trt.ILayer.type.fget(layer)).rpartition(".")[2] == "KV_CACHE_UPDATE":
            pairs.append([layer.get_output(0).name, layer.get_input(0).name])
    return pairs
