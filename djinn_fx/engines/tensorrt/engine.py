"""The TensorRT engine: a region becomes a network description, a plan built in a child process, a CUDA session.

A plan is told by its network description and by how it is called, nothing else of the region: identical layers share
one, and so do the same layers traced on a build farm without a GPU and on the machine that runs them.

Three builders, tried in this order: our converter (:mod:`~djinn_fx.engines.tensorrt.convert`), TensorRT's own ONNX
parser for what that does not cover, and torch_tensorrt's converters where that library can be imported.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import re
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from djinn_fx.engines.base import Artefact, BuildRequest, Capability, RegionCallable, RegionGraph
from djinn_fx.engines.rounding import may_round
from djinn_fx.engines.tensorrt import builder, torch_tensorrt_builder
from djinn_fx.engines.tensorrt.calling import CALLING_SCHEMA, Calling
from djinn_fx.engines.tensorrt.conversion import Conversion, Options
from djinn_fx.engines.tensorrt.flavour import Flavour, flavour, gpu_problem
from djinn_fx.engines.tensorrt.network import NETWORK_SCHEMA, Network
from djinn_fx.engines.tensorrt.session import Session
from djinn_fx.engines.tensorrt.worker import WORKER_VERSION
from djinn_fx.errors import EngineError
from djinn_fx.pool.jobs import BuildError, BuildFailed, BuildJob
from djinn_fx.pool.supervisor import shared_pool
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.form.hashing import NoCanonicalForm
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.store.store import Store

log = logging.getLogger("djinn_fx.engines.tensorrt")

PLAN_WORKER, ONNX_WORKER = "tensorrt-plan", "tensorrt-onnx"

#: A child that holds TensorRT and nothing else, resident; and one that also holds torch and the exporter.
_CHILD_BYTES, _ONNX_CHILD_BYTES = 350_000_000, 1_200_000_000
#: Constants are held by the request, the network and the plan, and once more while TensorRT works.
_COPIES_OF_CONSTANTS = 4

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')

#: Found for a graph module: what becomes of it. A region is asked for several times on its way.
_Found = Conversion | Reason


@dataclass(frozen=True, kw_only=True)
class TensorRTEngine:
    """Builds and runs plans.

    Attributes:
        target: what to build for, such as ``"sm89"``; None: the GPU that is present.
        library: ``"tensorrt"`` or ``"tensorrt_rtx"``; None: the first that can build here.
        tf32: whether float32 products may be rounded first, as ``torch.set_float32_matmul_precision`` says.
        onnx: whether ONNX is tried where the converter refuses. It takes seconds a region, in the child.
        conversion: options of the conversion.
        store: the cache; None: nothing is kept.
    """

    target: str | None = None
    library: str | None = None
    tf32: bool = False
    onnx: bool = True
    conversion: Options = field(default_factory=Options)
    store: Store | None = field(default=None, repr=False, compare=False)
    name: str = field(default="tensorrt", init=False)
    _found: weakref.WeakKeyDictionary[GraphModule, _Found] = field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def capability(self) -> Capability:
        """Which TensorRT there is, whether it builds for the target, and whether a plan for it runs here."""
        return _capability(self.library, self.target)

    def supports(self, region: RegionGraph) -> Reason | None:
        """None for a region of tensors on a GPU, or on any device if it is built for a GPU elsewhere."""
        capability = self.capability()
        if not capability.can_build:
            return _refused(region, "support", capability.why_not or "it cannot build here")
        values = [fake_value(node) for node in region.gm.graph.nodes if node.op == "call_function"]
        kinds = {tensor.device.type for value in values for tensor in tensors_of(value)}
        if not kinds:
            return _refused(region, "support", "the region computes no tensor")
        elsewhere = self.target is not None and bool(gpu_problem())
        odd = sorted(kinds - {"cuda"})
        if odd and not elsewhere:
            hint = "" if self.target else "; with the option target, plans are built here for another machine's GPU"
            return _refused(region, "support", f"its tensors are on {', '.join(odd)}, not on a GPU{hint}")
        return self._refusal(region)

    def request(self, region: RegionGraph) -> BuildRequest | Reason:
        """What a child process needs: the network and how it is called; or the canonical form, to export it there."""
        found = self.converted(region)
        if isinstance(found, Reason):
            return self._onnx_request(region, found)
        network = found.network
        calling = builder.calling_of(found, len(region.example_inputs))
        asked = {"network": _with_lines(network.to_json(), region.gm), "calling": calling.to_json(), **self._asked()}
        return BuildRequest(
            worker=PLAN_WORKER,
            request=asked,
            blobs=network.blobs,
            identity=f"tensorrt-network:{_digest([network.digest(), calling.digest()])}",
            memory_bytes=_CHILD_BYTES + _COPIES_OF_CONSTANTS * _constant_bytes(network),
        )

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        """Build in a child process, and wait: a library that crashes must not take the user's process with it.

        Raises:
            EngineError: stage, node, the user's line and TensorRT's messages.
        """
        request = self.request(region)
        if isinstance(request, Reason):
            artefact = torch_tensorrt_builder.compile_region(region, target=self.target, tf32=self.tf32)
            if isinstance(artefact, Artefact):
                return artefact
            raise EngineError(f"{request.detail}; {artefact}")
        try:
            header, plan = _built(request, region.label)
        except BuildError as error:
            raise EngineError(describe(error, region)) from error
        return Artefact(header=header, payload=plan)

    def load(self, artefact: Artefact) -> RegionCallable:
        """A session of a stored plan. The plan itself is deserialised when a device is known: at the first call.

        Raises:
            EngineError: stage load: no GPU, another GPU or library than it was built for, a damaged header.
        """
        header = artefact.header
        label = str(header.get("label", "a region"))
        try:
            calling = Calling.from_json(header.get("calling"))
            chosen = flavour(str(header["flavour"]))
        except (KeyError, LookupError, ValueError) as error:
            raise EngineError(f"tensorrt, load: {label}: {error}") from error
        if artefact.payload is None:
            raise EngineError(f"tensorrt, load: {label}: there is no plan")
        trouble = gpu_problem() or _torch_problem()
        if trouble:
            raise EngineError(f"tensorrt, load: {label}: built for {header.get('target')}, and {trouble}")
        if chosen.version != header.get("version"):
            raise EngineError(
                f"tensorrt, load: {label}: built with {chosen.name} {header.get('version')}, here is {chosen.version}"
            )
        driver = _driver(chosen.name, self.store)
        return Session(artefact.payload, calling, driver, label=label)

    def fingerprint(self) -> Mapping[str, str]:
        """Library, exact version, target and options: the same on a farm that builds for a GPU and on that GPU."""
        chosen = _chosen(self.library)
        return {
            "engine": self.name,
            "flavour": chosen.name,
            "version": chosen.version,
            "target": self.target or present() or "none",
            "tf32": str(self.tf32),
            "conversion": _digest(self.conversion.to_json())[:16],
            "converter": f"{_converter_version()}.{NETWORK_SCHEMA}.{CALLING_SCHEMA}.{WORKER_VERSION}",
        }

    def converted(self, region: RegionGraph) -> Conversion | Reason:
        """The region as a network, or why not."""
        known = self._found.get(region.gm)
        if known is None:
            from djinn_fx.engines.tensorrt.convert import convert

            known = convert(region, options=self.conversion)
            if isinstance(known, Conversion) and not known.inputs:
                known = _refused(region, "convert", "it takes no tensor, so its device is not known")
            self._found[region.gm] = known
        return known

    # Inside

    def _refusal(self, region: RegionGraph) -> Reason | None:
        found = self.converted(region)
        if isinstance(found, Conversion):
            return None
        request = self._onnx_request(region, found)
        if isinstance(request, BuildRequest) or torch_tensorrt_builder.why_not() is None:
            return None
        return request

    def _asked(self) -> dict[str, Any]:
        chosen = _chosen(self.library)
        target = self.target or present()
        # A target the library can name is named, so that the plan is the one a build farm makes.
        named = target if target in chosen.capability().targets else None
        return {"flavour": chosen.name, "target": named or self.target, "options": {"tf32": self.tf32}}

    def _onnx_request(self, region: RegionGraph, refused: Reason) -> BuildRequest | Reason:
        """The road through ONNX, or why the converter refused and this road is closed too."""
        if not self.onnx:
            return refused
        from djinn_fx.engines.tensorrt.onnx_fallback import form_of, missing_packages, versions
        from djinn_fx.srg.form.rebuild import CannotRebuild, size_hints

        try:
            absent = missing_packages()
            form = form_of(region) if absent is None else None
            hints = size_hints(form, region.example_inputs) if form is not None else []
        except (NoCanonicalForm, CannotRebuild) as error:
            absent = str(error)
        if absent is not None:
            return dataclasses.replace(refused, detail=f"{refused.detail}; ONNX: {absent}")
        plain = [[hint.value, hint.positive] for hint in hints]
        asked = {"form": form, "hints": plain, "conversion": self.conversion.to_json(), **self._asked()}
        known = [_without_devices(form), plain, versions()]
        return BuildRequest(
            worker=ONNX_WORKER,
            request=asked,
            identity=f"tensorrt-onnx:{_digest(known)}",
            memory_bytes=_ONNX_CHILD_BYTES,
        )


def describe(error: BuildError, region: RegionGraph) -> str:
    """A builder's error with its stage and the node it is about, which comes with the user's line."""
    return f"tensorrt, {error.stage}: {error.detail} [{error.node or region.label}]"


def _with_lines(network: dict[str, Any], gm: GraphModule) -> dict[str, Any]:
    """The description with the user's line behind each node's name: what a child says of a node then tells it."""
    lines = {node.name: _user_line(node.stack_trace) for node in gm.graph.nodes}
    for layer in network["layers"]:
        line = lines.get(layer["node"])
        if line:
            layer["node"] = f"{layer['node']}, {line}"
    return network


def _user_line(trace: str | None) -> str:
    """``user.py:12``, the innermost line of the user's of a node's stack trace; "" if there is none."""
    found = _FRAME.findall(trace or "")
    return f"{found[-1][0]}:{found[-1][1]}" if found else ""


def present() -> str | None:
    """The compute capability of the current GPU as a target's name, ``"sm89"``; None without one."""
    if gpu_problem() or _torch_problem():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


@functools.cache
def _chosen(library: str | None) -> Flavour:
    try:
        return flavour(library)
    except LookupError as error:
        raise EngineError(f"tensorrt, support: {error}") from error


@functools.cache
def _capability(library: str | None, target: str | None) -> Capability:
    chosen = _chosen(library)
    found = chosen.capability()
    here = present()
    named = target if target is not None and (target != here or target in found.targets) else None
    why_not = chosen.why_not_target(named)
    can_run = found.can_run and here is not None and target in (None, here)
    if not why_not and not can_run:
        built = f"built for {target}, and " if target else ""
        why_not = built + (_torch_problem() or found.why_not or f"this GPU is {here}")
    return Capability(
        can_build=not chosen.why_not_target(named),
        can_run=can_run,
        versions={chosen.name: found.version} if found.version else {},
        why_not=why_not or None,
    )


def _torch_problem() -> str:
    """Why torch gives no tensors on the GPU; "" if it does."""
    if torch.cuda.is_available():
        return ""
    return "this torch is built without CUDA" if not torch.version.cuda else "torch sees no CUDA device"


#: By library and cache folder.
_DRIVERS: dict[tuple[str, Path | None], Any] = {}


def _driver(library: str, store: Store | None) -> Any:
    from djinn_fx.engines.tensorrt.cuda import CudaDriver

    key = (library, store.root if store is not None else None)
    return _DRIVERS.setdefault(key, CudaDriver(Flavour(library), store))


def _built(request: BuildRequest, label: str) -> tuple[dict[str, Any], bytes]:
    """What a child builds of a request.

    Raises:
        BuildError: as the worker, or the child died.
    """
    job = BuildJob(
        key=uuid.uuid4().hex,  # who waits has the key's lock: there is nobody to share with
        worker=request.worker,
        request=request.request,
        blobs=request.blobs,
        label=label,
        memory_bytes=request.memory_bytes,
        timeout_s=request.timeout_s,
    )
    outcome = shared_pool(waited_for=True).run(job)
    if isinstance(outcome, BuildFailed):
        raise BuildError(outcome.detail, stage=outcome.stage, node=outcome.node)
    return dict(outcome.header), outcome.payload


def _refused(region: RegionGraph, stage: str, detail: str) -> Reason:
    return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"tensorrt, {stage}: {detail}", node=region.label)


def _converter_version() -> int:
    from djinn_fx.engines.tensorrt.convert import CONVERTER_VERSION

    return CONVERTER_VERSION


def _constant_bytes(network: Network) -> int:
    return sum(map(len, network.blobs))


def _without_devices(form: Any) -> str:
    """A canonical form as text in which the first device of either kind is the same: a plan has none."""
    text = json.dumps(form, sort_keys=True, separators=(",", ":"))
    return text.replace('"cuda#0"', '"device"').replace('"cuda"', '"device"').replace('"cpu"', '"device"')


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def make(*, target: str | None = None, store: Store | None = None) -> TensorRTEngine:
    """The engine as torch's own switches want it."""
    return TensorRTEngine(target=target, tf32=may_round(torch.backends.cuda.matmul), store=store)
