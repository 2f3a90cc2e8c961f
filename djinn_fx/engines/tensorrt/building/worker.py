"""Builds a TensorRT plan of an ONNX model, in a child process.

Imports TensorRT and the ``onnx`` package, not torch. The plan is a function of the model and the ranges of its sizes:
there is no timing cache, and nodes are named by their place. It is the same byte for byte where all sizes are numbers;
with symbols, TensorRT may number some of their expressions otherwise from build to build (see
:mod:`djinn_fx.engines.tensorrt.building.apart` for what can be done about that).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.engines.tensorrt.building import parse_onnx
from djinn_fx.engines.tensorrt.building.apart import build_apart
from djinn_fx.engines.tensorrt.building.flavour import Flavour, flavour
from djinn_fx.engines.tensorrt.building.messages import logger, messages
from djinn_fx.pool.jobs import BuildError

#: Scratch memory a plan may ask for, unless the options say otherwise. The same on every machine, so that plans are.
WORKSPACE_BYTES = 64 << 30

#: What TensorRT says of attention that it has no kernel for and may not take apart.
_NO_ATTENTION = "Attention operation was not supported by a dedicated kernel"

#: Raised when a plan of the same request becomes another; part of every key.
WORKER_VERSION = 2

#: How a message names a node of a model of ours.
_NODE = re.compile(r"\bnode(\d+)\b")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a plan is built.

    Attributes:
        tf32: float32 products may be rounded to 10 bits before they are multiplied. Off: eager's are not.
        strict_nans: x - x and 0 * x are not taken for 0, which NaN and infinity would disprove.
        workspace_bytes: scratch memory a plan may ask for.
        reproducible: equal requests give equal bytes, nearly always, also where sizes depend on symbols, for a
            process more; see :mod:`djinn_fx.engines.tensorrt.building.apart`.
    """

    tf32: bool = False
    strict_nans: bool = True
    workspace_bytes: int = WORKSPACE_BYTES
    reproducible: bool = False


def build(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Build a plan.

    Args:
        request: ``flavour`` ("tensorrt" or "tensorrt_rtx"), ``target`` ("sm89", …; None: the GPU that is present),
            ``options`` (fields of :class:`Options`), ``ranges`` ({size's name: [least, usual, most]}), ``calling``
            (handed through to the header: how the plan is called) and ``nodes`` (for messages: where each of the
            model's nodes comes from, in order).
        blobs: the ONNX model alone.

    Returns:
        A header with ``engine``, ``flavour``, ``version``, ``target``, ``layers``, ``inputs`` and ``outputs`` (name,
        type, sizes with -1 for what changes from call to call), ``warnings`` and ``calling``; and the plan's bytes.

    Raises:
        BuildError: stage ``support``: this flavour or target is not to be had here; ``parse``: the model is broken or
            TensorRT refuses a node; ``build``: no plan came out.
    """
    chosen, target, options = _asked(request)
    if options.reproducible:
        return build_apart(request, blobs)
    if len(blobs) != 1:
        raise BuildError("a request is for one model", stage="parse")
    try:
        return _built(chosen, target, options, request, blobs[0])
    except BuildError as error:
        error.node = _node(error, request.get("nodes"))
        raise


def _built(
    chosen: Flavour, target: str, options: Options, request: Mapping[str, Any], model: bytes
) -> tuple[dict[str, Any], bytes]:
    trt, ranges = chosen.module, _ranges(request.get("ranges", {}))
    mark = messages(trt).mark()
    builder = trt.Builder(logger(trt))
    definition = parse_onnx.parse(trt, model, builder)
    _check_target(trt, definition, target)
    plan = _plan(builder, definition, _config(trt, builder, target, options), ranges)
    if plan is None and any(_NO_ATTENTION in text for text in messages(trt).since(mark)):
        mark = messages(trt).mark()
        definition = parse_onnx.parse(trt, parse_onnx.with_wide_attention(model), builder)
        plan = _plan(builder, definition, _config(trt, builder, target, options), ranges)
    if plan is None:
        raise _failed(trt, mark)
    header = {
        "engine": "tensorrt",
        "builder": "onnx",
        "flavour": chosen.name,
        "version": str(trt.__version__),
        "target": target,
        "layers": definition.num_layers,
        "inputs": [_told(trt, definition.get_input(index)) for index in range(definition.num_inputs)],
        "outputs": [_told(trt, definition.get_output(index)) for index in range(definition.num_outputs)],
        "warnings": list(messages(trt).since(mark)),
        "calling": request.get("calling"),
    }
    return header, plan


def _plan(builder: Any, definition: Any, config: Any, ranges: Mapping[str, parse_onnx.Range]) -> bytes | None:
    profile = parse_onnx.profile(definition, ranges, builder)
    if profile is not None:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(definition, config)
    return None if plan is None else bytes(plan)


def _node(error: BuildError, nodes: Any) -> str:
    """Where the node that an error is about comes from; what the error says of it, if that is not told."""
    found = _NODE.search(error.node) or _NODE.search(error.detail)
    if found and isinstance(nodes, Sequence) and int(found[1]) < len(nodes):
        return str(nodes[int(found[1])])
    return error.node


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


def _ranges(data: Any) -> dict[str, parse_onnx.Range]:
    try:
        ranges = {str(name): parse_onnx.Range(least=a, usual=b, most=c) for name, (a, b, c) in data.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BuildError(f"ranges {data!r} are none", stage="parse") from error
    for name, known in ranges.items():
        ends = (known.least, known.usual, known.most)
        if any(type(end) is not int for end in ends) or not 0 <= ends[0] <= ends[1] <= ends[2] < 2**31:
            raise BuildError(f"size {name} ranges over {list(ends)}", stage="parse")
    return ranges


def _check_target(trt: Any, definition: Any, target: str) -> None:
    """What a target has no kernels for, said before it costs anything and of the node that is to blame."""
    if target != "sm75":
        return
    halves = set()
    for index in range(definition.num_layers):
        layer = definition.get_layer(index)
        given = [layer.get_input(place) for place in range(layer.num_inputs)]
        made = [layer.get_output(place) for place in range(layer.num_outputs)]
        if any(one is not None and one.dtype == trt.bfloat16 for one in (*given, *made)):
            raise BuildError("sm75 has no bfloat16", stage="support", node=layer.name)
        kind = parse_onnx.kind_of(trt, layer)
        if kind == "CAST" and given[0].dtype == trt.float16:
            halves.add(made[0].name)  # a product of such is one of halves
        wide = any(one is not None and one.dtype == trt.float32 and one.name not in halves for one in given[:2])
        if kind in ("MATRIX_MULTIPLY", "EINSUM") and wide:
            detail = "sm75 multiplies no float32 matrices in TensorRT; float16 it does"
            raise BuildError(detail, stage="support", node=layer.name)


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


def _failed(trt: Any, mark: int) -> BuildError:
    """Why no plan came out; it names the node whose layer TensorRT names, if it names one."""
    said = messages(trt).errors(mark) or messages(trt).since(mark) or ("it does not say why",)
    text = " / ".join(" ".join(one.split()) for one in said)
    return BuildError(f"TensorRT builds no plan: {text}", stage="build")


def _told(trt: Any, tensor: Any) -> list[Any]:
    dtype = next(name for name in parse_onnx.TYPES if getattr(trt, name) == tensor.dtype)
    return [tensor.name, dtype, list(tensor.shape)]


def main() -> None:
    """The process's side: a request on standard input, a header and the plan on standard output."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what TensorRT prints belongs to nobody's plan
    head, _, rest = sys.stdin.buffer.read().partition(b"\n")
    told = json.loads(head)
    blobs, start = [], 0
    for size in told["sizes"]:
        blobs.append(rest[start : start + size])
        start += size
    try:
        header, plan = build(told["request"], blobs)
        reply: dict[str, Any] = {"header": header}
    except BuildError as error:
        reply, plan = {"detail": error.detail, "stage": error.stage, "node": error.node}, b""
    with open(answer, "wb") as pipe:
        pipe.write(json.dumps(reply).encode() + b"\n" + plan)
