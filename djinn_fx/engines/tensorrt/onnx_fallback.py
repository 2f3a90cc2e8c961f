"""A region as an ONNX model: what TensorRT's own parser is given where the direct converter refuses.

The exporter takes seconds a layer and changes state of the whole process while it runs: it sets torch's "exporting to
ONNX" flag, patches ``torch.nn.Module.__call__`` while it traces, and swaps ONNX Script's default evaluator. So it
belongs in a process of its own: :func:`convert_form` needs only the region's canonical form and its size hints, both
plain data. In the process that compiles, call :func:`onnx_request` only where AOTAutograd would be called.

Needs the packages ``onnx`` and ``onnxscript``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.fx import GraphModule

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.tensorrt.conversion import Copy, Options, Output
from djinn_fx.engines.tensorrt.network import Range
from djinn_fx.engines.tensorrt.onnx_rewrite import PLACE, Prepared, Refused, prepare
from djinn_fx.engines.tensorrt.onnx_verify import difference
from djinn_fx.errors import LoweringError, useful_line
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.form.hashing import NoCanonicalForm, canonical_form
from djinn_fx.srg.form.rebuild import CannotRebuild, Rebuilt, SizeHint, rebuild, size_hints
from djinn_fx.srg.lower import lower
from djinn_fx.threads import new_lock

#: Raised when this module changes what it makes of a region; part of every key.
CONVERTER_VERSION = 1
#: The first opset with an op for attention.
OPSET = 23

_AT_NODE = re.compile(r"translating node .*target=torch\.ops\.([\w.]+)\]")

#: The exporter is not made for two threads: it keeps its tracer in a global.
_ONE_AT_A_TIME = new_lock()


@dataclass(frozen=True, kw_only=True)
class OnnxConversion:
    """A region as an ONNX model, and how the region's inputs and outputs hang on it.

    Attributes:
        model: the model's bytes; inputs are named ``in0``, ``in1`` …, outputs ``out0``, ``out1`` …; no weights in it.
        inputs: the region inputs it takes, by index, in the model's order. It takes them contiguous.
        outputs: how each of the region's outputs is made, in order.
        copies: what is written back, each input once.
        symbols: for each symbol, the model's input and dimension to read it from; a size that is seen in several
            places must be the same in all of them.
        ranges: for each symbol its least, usual and greatest value; dimensions of the model's inputs have its name.
    """

    model: bytes
    inputs: tuple[int, ...]
    outputs: tuple[Output, ...]
    copies: tuple[Copy, ...] = ()
    symbols: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """What the builder in the child is asked, besides flavour, target and options; the model is its one blob."""
        return {"onnx": True, "ranges": {name: [one.least, one.usual, one.most] for name, one in self.ranges.items()}}

    def digest(self) -> str:
        """SHA-256 of everything that decides what is built, and of how it is called."""
        told = [
            self.inputs,
            [[type(one).__name__, asdict(one)] for one in self.outputs],
            [asdict(one) for one in self.copies],
            sorted(self.symbols.items()),
            [[name, asdict(one)] for name, one in sorted(self.ranges.items())],
        ]
        checksum = hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode())
        checksum.update(hashlib.sha256(self.model).digest())
        return checksum.hexdigest()


def missing_packages() -> str | None:
    """What to install before anything can be exported; None if all is there."""
    absent = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    return f"install {' and '.join(absent)}: pip install {' '.join(absent)}" if absent else None


def versions() -> dict[str, str]:
    """Of everything besides the region that decides what is exported: for keys."""
    found = {"converter": str(CONVERTER_VERSION), "opset": str(OPSET), "torch": str(torch.__version__)}
    for name in ("onnx", "onnxscript", "onnx_ir"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def onnx_request(
    region: RegionGraph, options: Options | None = None, *, verify: bool = False
) -> OnnxConversion | Reason:
    """A region as an ONNX model, or why it cannot be one.

    Args:
        region: weights are inputs and stay inputs.
        options: ``growth``, and ``wide_accumulation`` for every op that rounds half precision; ``propagate_nan`` is not
            heeded: the parser's layers are as they are.
        verify: also run the model and the graph it was made of, on random numbers, and refuse if they differ. Takes
            what a call on the CPU takes; needs ``onnxruntime``, and is left out where that cannot run the model.
    """
    try:
        form = form_of(region)
        hints = size_hints(form, region.example_inputs)
    except (NoCanonicalForm, CannotRebuild) as error:
        return _reason(region, Refused(str(error)))
    try:
        return convert_form(form, hints, options, verify=verify)
    except Refused as error:
        return _reason(region, error)


def convert_form(
    form: Any, hints: Sequence[SizeHint] = (), options: Options | None = None, *, verify: bool = False
) -> OnnxConversion:
    """As :func:`onnx_request`, from what the region's canonical form says.

    Args:
        form: see :func:`djinn_fx.srg.form.hashing.canonical_form`.
        hints: see :func:`djinn_fx.srg.form.rebuild.size_hints`.
        options: as in :func:`onnx_request`.
        verify: as in :func:`onnx_request`.

    Raises:
        Refused: why not, and because of which op.
    """
    absent = missing_packages()
    if absent is not None:
        raise Refused(f"ONNX export is not possible here: {absent}")
    if any(str(kind).startswith(("u", "zu")) for kind, *_ in form["symbols"]):
        raise Refused("a size that is only known at run time")
    try:
        rebuilt = rebuild(form, hints=hints, devices=_any_device(form))
    except CannotRebuild as error:
        raise Refused(f"the region cannot be rebuilt: {error}") from error
    known = _facts(rebuilt)
    prepared = prepare(rebuilt, options or Options())
    model = _model(prepared)
    if _facts(rebuilt) != known:
        # The user's graph is guarded by what tracing the region found, not by what exporting it took for granted.
        raise Refused("the exporter decided something by the sizes of the example, so the model is not for others")
    problem = difference(model, prepared.gm) if verify else None
    if problem is not None:
        raise Refused(f"the exported model gives other numbers than torch: {problem}")
    return OnnxConversion(
        model=model,
        inputs=prepared.inputs,
        outputs=prepared.outputs,
        copies=prepared.copies,
        symbols=prepared.symbols,
        ranges=prepared.ranges,
    )


def _facts(rebuilt: Rebuilt) -> list[str]:
    """What is known of the sizes of a region: conditions found true, bounds, and sizes found to be others."""
    environments = {id(one): one for one in _environments(rebuilt)}
    return [
        text
        for one in environments.values()
        for text in (
            *(str(guard.expr) for guard in one.guards),
            str(sorted((str(old), str(new)) for old, new in one.replacements.items())),
            str(sorted((str(symbol), str(bounds)) for symbol, bounds in one.var_to_range.items())),
        )
    ]


def _environments(rebuilt: Rebuilt) -> Iterator[Any]:
    for value in rebuilt.example_inputs:
        if isinstance(value, torch.SymInt):
            yield value.node.shape_env
        elif isinstance(value, FakeTensor) and value.fake_mode.shape_env is not None:
            yield value.fake_mode.shape_env


def _reason(region: RegionGraph, error: Refused) -> Reason:
    ops = [node for node in region.gm.graph.nodes if node.op == "call_function"]
    node = ops[error.op].name if error.op is not None and error.op < len(ops) else region.label
    return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"tensorrt, convert to ONNX: {error.detail}", node=node)


def form_of(region: RegionGraph) -> Any:
    """The canonical form of a region, also of one that came without; its own graph keeps no trace of that.

    Raises:
        NoCanonicalForm: there is none.
    """
    if region.canonical is not None:
        return region.canonical
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(region.gm.graph, {}))
    copy = GraphModule(region.gm, graph)
    try:
        lower(copy)
    except LoweringError as error:
        raise NoCanonicalForm(str(error)) from error
    ops = [node for node in graph.nodes if node.op == "call_function"]
    returned: Any = graph.output_node().args[0]
    return canonical_form(ops, graph.find_nodes(op="placeholder"), returned)


def _any_device(form: Any) -> dict[str, str]:
    """A real name for every numbered device of the form: fake tensors need one, the model does not hold it."""
    text = json.dumps(form)
    return {f"cuda#{number}": f"cuda:{number}" for number in range(16) if f'"cuda#{number}"' in text}


def _model(prepared: Prepared) -> bytes:
    # onnx takes 0.2 s to import and is not installed everywhere
    from djinn_fx.engines.tensorrt.onnx_model import NotTaken, finish

    proto = _exported(prepared.gm)
    try:
        return finish(proto, prepared.taken, prepared.given)
    except NotTaken as error:
        raise Refused(str(error)) from error


def _exported(gm: GraphModule) -> Any:
    """The ModelProto the exporter makes.

    Only constants are folded. ONNX Script's fusions, which ``optimize=True`` would run too, make a RotaryEmbedding of
    a rotation whose tables have batch size 1, which the op does not allow, and TensorRT refuses.
    """
    import onnxscript.optimizer

    try:
        with _ONE_AT_A_TIME, _quiet():
            program = torch.onnx.export(
                _program(gm), dynamo=True, opset_version=OPSET, optimize=False, verbose=False, external_data=False
            )
            assert program is not None, "it is None only where a file is written"
            onnxscript.optimizer.optimize(program.model)
            return program.model_proto
    except Exception as error:
        raise Refused(f"the exporter fails: {_cause(error)}", _op_of(error, gm)) from error


def _program(gm: GraphModule) -> torch.export.ExportedProgram:
    """The graph as what the exporter takes, without being traced again."""
    from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
    from torch.export.graph_signature import (
        ExportGraphSignature,
        InputKind,
        InputSpec,
        OutputKind,
        OutputSpec,
        TensorArgument,
    )
    from torch.utils import _pytree

    placeholders = gm.graph.find_nodes(op="placeholder")
    results: Any = gm.graph.output_node().args[0]
    _, taken = _pytree.tree_flatten((tuple(range(len(placeholders))), {}))
    _, given = _pytree.tree_flatten(tuple(range(len(results))))
    return torch.export.ExportedProgram(
        root=gm,
        graph=gm.graph,
        graph_signature=ExportGraphSignature(
            input_specs=[
                InputSpec(kind=InputKind.USER_INPUT, arg=TensorArgument(name=node.name), target=None)
                for node in placeholders
            ],
            output_specs=[
                OutputSpec(kind=OutputKind.USER_OUTPUT, arg=TensorArgument(name=node.name), target=None)
                for node in results
            ],
        ),
        state_dict={},
        range_constraints={},
        module_call_graph=[
            ModuleCallEntry(fqn="", signature=ModuleCallSignature(inputs=[], outputs=[], in_spec=taken, out_spec=given))
        ],
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that are not there and of its own calls; neither is for the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _op_of(error: BaseException | None, gm: GraphModule) -> int | None:
    """Which op the exporter was at: the first of the kind it names, unless it made that kind of others."""
    while error is not None:
        found = _AT_NODE.search(str(error))
        if found is not None:
            places = [n.meta[PLACE] for n in gm.graph.nodes if PLACE in n.meta and str(n.target) == found[1]]
            return min(places, default=None)
        error = error.__cause__
    return None


def _cause(error: BaseException) -> str:
    """The innermost error: the exporter wraps what went wrong several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return useful_line(error)[:300]
