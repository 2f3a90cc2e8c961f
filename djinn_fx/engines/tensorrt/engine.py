"""The TensorRT engine: a region becomes an ONNX model, a plan built in a child process, a CUDA session.

A plan is told by its model and by how it is called, nothing else of the region: identical layers share one, and so do
the same layers traced on a build farm without a GPU and on the machine that runs them.

Two builders, tried in this order: our converter to ONNX (:mod:`djinn_fx.engines.onnx`) with TensorRT's own parser, and
torch_tensorrt's converters where that library can be imported.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import uuid
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from djinn_fx.engines.base import Artefact, BuildRequest, Capability, RegionCallable, RegionGraph
from djinn_fx.engines.onnx.convert import CONVERTER_VERSION
from djinn_fx.engines.rounding import may_round
from djinn_fx.engines.tensorrt.building import torch_tensorrt_builder
from djinn_fx.engines.tensorrt.building.flavour import Flavour, flavour, gpu_problem
from djinn_fx.engines.tensorrt.building.worker import WORKER_VERSION
from djinn_fx.engines.tensorrt.mapping import GROWTH, Conversion, convert
from djinn_fx.engines.tensorrt.run.calling import CALLING_SCHEMA, Calling
from djinn_fx.engines.tensorrt.run.session import Session
from djinn_fx.errors import EngineError
from djinn_fx.pool.jobs import BuildError, BuildFailed, BuildJob
from djinn_fx.pool.supervisor import shared_pool
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.form.rebuild import CannotRebuild, size_hints
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.store.store import Store

log = logging.getLogger("djinn_fx.engines.tensorrt")

PLAN_WORKER, CHECKED_WORKER = "tensorrt-plan", "tensorrt-checked"

#: A child that holds TensorRT and little else, resident; and one that also holds torch and ONNX Runtime.
_CHILD_BYTES, _CHECKED_CHILD_BYTES = 400_000_000, 1_200_000_000
#: A model is held by the request, the parser and the plan, and once more while TensorRT works.
_COPIES = 4

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
        growth: a size without an upper bound may grow to this many times its usual value; calls beyond it are not
            served by the plan.
        store: the cache; None: nothing is kept.
        verify: as the setting of that name.
    """

    target: str | None = None
    library: str | None = None
    tf32: bool = False
    growth: int = GROWTH
    store: Store | None = field(default=None, repr=False, compare=False)
    verify: str = "first"
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
        """What a child process needs: the model, between which sizes, and how a plan of it is called."""
        found = self.converted(region)
        if isinstance(found, Reason):
            return found
        asked = {**found.request(), "nodes": _with_lines(found.nodes, region.gm), **self._asked()}
        checked = self._to_check(region)
        return BuildRequest(
            worker=CHECKED_WORKER if checked else PLAN_WORKER,
            request={**asked, **checked},
            blobs=(found.model,),
            identity=f"tensorrt-model:{found.digest()}",
            memory_bytes=(_CHECKED_CHILD_BYTES if checked else _CHILD_BYTES) + _COPIES * len(found.model),
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
            "growth": str(self.growth),
            "converter": f"{CONVERTER_VERSION}.{CALLING_SCHEMA}.{WORKER_VERSION}",
        }

    def converted(self, region: RegionGraph) -> Conversion | Reason:
        """The region as a model, or why not."""
        known = self._found.get(region.gm)
        if known is None:
            known = convert(region, growth=self.growth)
            self._found[region.gm] = known
        return known

    # Inside

    def _refusal(self, region: RegionGraph) -> Reason | None:
        found = self.converted(region)
        if isinstance(found, Conversion) or torch_tensorrt_builder.why_not() is None:
            return None
        return found

    def _to_check(self, region: RegionGraph) -> dict[str, Any]:
        """What a child needs to run the model beside its graph: where no first answer will be held against eager's,
        or is on another machine, and ONNX Runtime is at hand.
        """
        guarded = self.verify != "off" and (self.target is None or not gpu_problem())
        if guarded or region.canonical is None or importlib.util.find_spec("onnxruntime") is None:
            return {}
        try:
            hints = size_hints(region.canonical, region.example_inputs)
        except CannotRebuild:
            return {}
        return {"form": region.canonical, "hints": [[hint.value, hint.positive] for hint in hints]}

    def _asked(self) -> dict[str, Any]:
        chosen = _chosen(self.library)
        target = self.target or present()
        # A target the library can name is named, so that the plan is the one a build farm makes.
        named = target if target in chosen.capability().targets else None
        return {"flavour": chosen.name, "target": named or self.target, "options": {"tf32": self.tf32}}


def describe(error: BuildError, region: RegionGraph) -> str:
    """A builder's error with its stage and the node it is about, which comes with the user's line."""
    return f"tensorrt, {error.stage}: {error.detail} [{error.node or region.label}]"


def _with_lines(nodes: Sequence[str], gm: GraphModule) -> list[str]:
    """Names of nodes with the user's lines behind them: what a child says of a node then tells it."""
    lines = {node.name: _user_line(node.stack_trace) for node in gm.graph.nodes}
    return [f"{name}, {lines[name]}" if lines.get(name) else name for name in nodes]


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
    from djinn_fx.engines.tensorrt.run.cuda import CudaDriver

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


def make(*, target: str | None = None, store: Store | None = None, verify: str = "first") -> TensorRTEngine:
    """The engine as torch's own switches want it."""
    return TensorRTEngine(target=target, tf32=may_round(torch.backends.cuda.matmul), store=store, verify=verify)
