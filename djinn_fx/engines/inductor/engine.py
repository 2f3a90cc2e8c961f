"""Inductor: the only adapter around ``torch._inductor.standalone_compile`` and the private names it needs."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from djinn_fx.engines.base import Artefact, BuildRequest, Capability, RegionCallable, RegionGraph
from djinn_fx.engines.inductor import apart as inductor_apart
from djinn_fx.engines.inductor import conditions as inductor_conditions
from djinn_fx.engines.inductor import flags as inductor_flags
from djinn_fx.engines.inductor import folder as inductor_folder
from djinn_fx.engines.inductor import kernels as inductor_kernels
from djinn_fx.engines.inductor import safe as inductor_safe
from djinn_fx.engines.inductor import strides as inductor_strides
from djinn_fx.engines.inductor.into import writing_into
from djinn_fx.engines.inductor.memory import own as inductor_memory
from djinn_fx.engines.inductor.prewarm import know_vector_units
from djinn_fx.engines.keys import device_names, device_order, symbolic_inputs
from djinn_fx.errors import EngineError, useful_line
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.form.rebuild import CannotRebuild, size_hints
from djinn_fx.srg.graph import fake_value, tensors_of

log = logging.getLogger("djinn_fx.engines.inductor")

#: Raised when this module changes what it hands to Inductor; part of every key.
CONVERTER_VERSION = 6

#: Peak memory in bytes of a child and the compilers it runs: whole Llama graphs of 221, 1041, 2122 and 3362 ops took
#: 605, 633, 685 and 721 MiB together (torch 2.13 for CPU, g++ 12, one compiler at a time).
_BASE_MEMORY, _MEMORY_PER_OP = 700_000_000, 60_000
#: With an accelerator its libraries come on top: a guess, nothing was measured.
_ACCELERATOR_MEMORY = 3_000_000_000
#: They took 12 to 81 s on 2 cores that others used too; this is for what hangs.
_BASE_SECONDS, _SECONDS_PER_OP = 300.0, 0.5


@dataclass(frozen=True, kw_only=True)
class InductorEngine:
    """Compiles a region with TorchInductor, weights as inputs, so that identical layers share one artefact.

    Attributes:
        mode: torch.compile's mode name, turned into Inductor's options.
        fallback_random: draw random numbers as eager does, at the price of not fusing them.
    """

    mode: str = "default"
    fallback_random: bool = True
    name: str = field(default="inductor", init=False)
    #: Whether an artefact answers by the region's own ops where it cannot; else it raises ``Declined``.
    answers_itself: bool = field(default=True, init=False)
    #: Inductor's settings belong to a thread: whichever thread loads must see those of the one that asked.
    _context: contextvars.Context = field(
        default_factory=contextvars.copy_context, init=False, repr=False, compare=False
    )

    def capability(self) -> Capability:
        """Inductor can build where its backend's compiler is there; without one the first build says why."""
        try:
            import torch._inductor
        except ImportError as error:  # a torch built without Inductor's dependencies
            return Capability(can_build=False, can_run=False, why_not=str(error))
        return Capability(can_build=True, can_run=True, versions={"torch": str(torch.__version__)})

    def supports(self, region: RegionGraph) -> Reason | None:
        """Inductor takes every region that computes a tensor on a device it knows."""
        values = [fake_value(node) for node in region.gm.graph.nodes if node.op == "call_function"]
        tensors = [tensor for value in values for tensor in tensors_of(value)]
        if not tensors:
            return Reason(
                kind=ReasonKind.ENGINE_REFUSED,
                detail="inductor: the region computes no tensor",
                node=region.label,
            )
        odd = next((t for t in tensors if t.layout is not torch.strided), None)
        if odd is not None:
            return Reason(
                kind=ReasonKind.ENGINE_REFUSED,
                detail=f"inductor: a tensor with layout {odd.layout}",
                node=region.label,
            )
        unsafe = inductor_conditions.refusal(region) if _on_cpu(region) else None
        if unsafe is not None:
            return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=unsafe, node=region.label)
        return None

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        """Compile a region with the shapes, symbols included, of its graph; alone: in a folder of this process.

        Raises:
            EngineError: Inductor failed; the cause is chained.
        """
        try:
            if alone:
                with inductor_folder.own_folder():
                    return self._compile(region)
            with inductor_folder.patient():
                return inductor_folder.in_usable(lambda: self._compile(region))
        except OSError as error:
            raise EngineError(f"inductor could not compile {region.label}: {useful_line(error)}") from error

    def _compile(self, region: RegionGraph) -> Artefact:
        already = len(inductor_kernels.loaded_modules())
        try:
            gm, needs = _as_torch_means_it(region)
            with _neutral_context(), inductor_strides.listening() as heard:
                artefact = torch._inductor.standalone_compile(
                    _announce_fake_mode(gm),
                    list(region.example_inputs),
                    dynamic_shapes="from_graph",
                    options={"config_patches": {**self._options(), **_rounding(region)}},
                    aot=True,
                )
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"inductor could not compile {region.label}: {useful_line(error)}") from error
        payload = _serialise(artefact, region.label)
        modules = inductor_kernels.loaded_modules()[already:]
        kernels, libraries = inductor_kernels.carried(modules)
        count = _output_count(region)
        header = {"engine": self.name, "outputs": count, **inductor_strides.as_header(heard, count), **kernels}
        header.update(inductor_memory.as_header(modules, region.example_inputs))
        if needs:
            header.update(needs=needs.to_json(), form=region.canonical)
        own = inductor_safe.from_graph(region.gm) if self.answers_itself else None
        return Artefact(
            header=header,
            payload=payload + libraries if payload is not None else None,
            ready=_safe(writing_into(_as_region_callable(artefact)), needs, own),
        )

    def request(self, region: RegionGraph) -> BuildRequest | Reason:
        """What a child process needs to compile the region: its canonical form, and this process's switches."""
        try:
            asked = self._context.copy().run(self._asked, region)
        except CannotRebuild as error:
            return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"inductor in a child: {error}", node=region.label)
        ops = len(region.canonical["ops"])
        base = _ACCELERATOR_MEMORY if asked["devices"] else _BASE_MEMORY
        return BuildRequest(
            worker="inductor-region",
            request=asked,
            memory_bytes=base + ops * _MEMORY_PER_OP,
            timeout_s=_BASE_SECONDS + ops * _SECONDS_PER_OP,
        )

    def _asked(self, region: RegionGraph) -> dict[str, Any]:
        """The request as a JSON object.

        Raises:
            CannotRebuild: what no other process can make of it, and why.
        """
        if region.canonical is None:
            raise CannotRebuild("the region has no canonical form")
        custom = [name for name, identity in inductor_flags.custom_passes().items() if identity is not None]
        if custom:
            raise CannotRebuild(f"Inductor's setting {custom[0]} holds a function of this process")
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        return {
            "form": region.canonical,
            "hints": [[hint.value, hint.positive] for hint in size_hints(region.canonical, region.example_inputs)],
            "symbols": len(symbolic_inputs(region.example_inputs)),
            "devices": device_names(region),
            "label": region.label,
            "kind": region.kind,
            "mode": self.mode,
            "fallback_random": self.fallback_random,
            "fingerprint": dict(self.fingerprint()),
            "switches": inductor_flags.as_data(),
            # Native kernels built there are found here when the artefact is loaded.
            "cache_dir": os.path.abspath(cache_dir()),
        }

    def load(self, artefact: Artefact) -> RegionCallable:
        """Make stored bytes callable. Native kernels that are missing here and cannot be put back are built again.

        May be called from any thread, with Inductor's settings as they were where the engine was made.

        Raises:
            EngineError: the bytes do not fit this torch.
        """
        context = self._context.copy()
        try:
            return inductor_folder.in_usable(lambda: context.run(self._load, artefact))
        except Exception as error:
            raise EngineError(f"inductor could not load an artefact: {useful_line(error)}") from error

    def _load(self, artefact: Artefact) -> RegionCallable:
        from torch._inductor.standalone_compile import AOTCompiledArtifact

        assert artefact.payload is not None, "only stored artefacts are loaded"
        import_runtime()
        know_vector_units()
        payload = inductor_kernels.restored(artefact.header, artefact.payload)
        with _neutral_context(), _clean_tracing_context():
            run = writing_into(_as_region_callable(AOTCompiledArtifact.deserialize(payload)))
        if "needs" not in artefact.header:
            return run
        needs = inductor_safe.Needs.from_json(artefact.header["needs"])
        own = inductor_safe.from_form(artefact.header["form"]) if self.answers_itself else None
        return _safe(run, needs, own)

    def fingerprint(self) -> Mapping[str, str]:
        """Versions, the machine's capability, and the flags an artefact depends on."""
        return {
            "engine": self.name,
            "converter": str(CONVERTER_VERSION),
            "mode": self.mode,
            "options": inductor_flags.digest(self._options()),
            **_versions(),
            "flags": inductor_flags.flags(),
        }

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"fallback_random": True} if self.fallback_random else {}
        if self.mode != "default":
            options.update(torch._inductor.list_mode_options(self.mode))
        return options


@functools.cache
def import_runtime() -> None:
    """Import what the first artefact to be loaded would import: 1 s in which other threads hardly run."""
    import torch._functorch._aot_autograd.aot_autograd_result
    import torch._inductor.async_compile
    import torch._inductor.codegen.memory_planning
    import torch._inductor.select_algorithm
    import torch._inductor.standalone_compile  # noqa: F401


def _on_cpu(region: RegionGraph) -> bool:
    return all(device == "cpu" for device in device_order(node.meta.get("val") for node in region.gm.graph.nodes))


def _as_torch_means_it(region: RegionGraph) -> tuple[torch.fx.GraphModule, inductor_safe.Needs]:
    """The region's graph so that Inductor computes what torch does for all values, and what that needs of a call."""
    if not _on_cpu(region):
        return region.gm, inductor_safe.Needs()
    gm = inductor_conditions.copied(region.gm)
    apart = inductor_apart.left_to_torch(gm, inference=region.kind == "inference")
    needs = inductor_conditions.made_safe(region, gm)
    return (gm if apart or needs.results else region.gm), needs


def _safe(run: RegionCallable, needs: inductor_safe.Needs, own: Callable[[], RegionCallable] | None) -> RegionCallable:
    return inductor_safe.SafeCall(run, needs, own) if needs else run


def _rounding(region: RegionGraph) -> dict[str, Any]:
    """Where numbers of half precision are made, they are rounded as the graph says: Inductor would leave out casts."""
    values = [fake_value(node) for node in region.gm.graph.nodes]
    half = any(one.dtype in (torch.float16, torch.bfloat16) for value in values for one in tensors_of(value))
    if not half or not _on_cpu(region):
        return {}
    inductor_apart.keep_roundings()
    return {"emulate_precision_casts": True}


def _announce_fake_mode(gm: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """standalone_compile("from_graph") takes the fake mode off an output's ``example_value``."""
    output = next(iter(gm.graph.find_nodes(op="output")))
    for node in output.all_input_nodes:
        value = fake_value(node)
        if isinstance(value, torch.Tensor):
            node.meta["example_value"] = value
    return gm


@contextlib.contextmanager
def _neutral_context() -> Iterator[None]:
    """The graph says all that is to be done: autocast and autograd were applied when it was traced."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch._C._DisableAutocast())
        yield


def _clean_tracing_context() -> contextlib.AbstractContextManager[Any]:
    """Loading writes the artefact's output strides into the ambient tracing context: give it one of its own."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    return tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv())))


def _as_region_callable(artefact: Any) -> RegionCallable:
    """Peel an artefact to the callable that takes a list it may clear.

    What torch hands out is that callable in two wrappers: one unpacks the list, one keeps Dynamo from tracing
    it. Regions are only called from code that Dynamo does not trace, and each wrapper costs microseconds.
    """
    from torch._dynamo.eval_frame import innermost_fn

    compiled = artefact.inner_fn.compiled_fn
    boxed = getattr(innermost_fn(compiled), "__wrapped__", None)
    if callable(boxed):
        unwrapped: RegionCallable = boxed
        return unwrapped

    def run(args: list[Any]) -> Any:
        return compiled(*args)

    return run


def _serialise(artefact: Any, label: str) -> bytes | None:
    try:
        payload: bytes = artefact.serialize()
    except Exception as error:  # noqa: BLE001  (torch raises whatever its pickler meets; the artefact is fine)
        log.info("%s cannot be stored: %s", label, useful_line(error))
        return None
    return payload


def _output_count(region: RegionGraph) -> int:
    return len(next(iter(region.gm.graph.find_nodes(op="output"))).args[0])


@functools.cache
def _versions() -> dict[str, str]:
    from torch._inductor.codecache import CacheBase, torch_key

    return {
        "torch": str(torch.__version__),
        "torch_source": hashlib.sha256(torch_key()).hexdigest()[:16],
        "system": inductor_flags.digest(CacheBase.get_system()),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "compiler": _compiler_version(),
    }


def _compiler_version() -> str:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        command = [get_cpp_compiler(), "-dumpfullversion", "-dumpversion"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except Exception as error:  # noqa: BLE001  (no compiler is told when something needs one)
        return f"none ({type(error).__name__})"
