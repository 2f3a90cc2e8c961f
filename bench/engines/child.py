"""What bench/engines/engines.py runs in processes of its own: one contender each, which is kept and asked in turn."""

from __future__ import annotations

import os
import time
import types
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

from bench.engines.models import Workload, doubled, parameters, workload
from bench.engines.report import BF16, INT8, PRECISION
from bench.harness.measuring import no_gc, rotated, time_block
from bench.harness.models import backend_of

Found = dict[str, Any]
#: A call's answer: the module's result, then what it wrote into its state.
Answer = tuple[torch.Tensor, ...]

#: Of a large answer this many numbers are compared, at even distances.
COMPARED = 1_000_003
#: An answer is wrong if it is further from the float64 one than this share of the largest value, and further than
#: ``TIMES_EAGER`` times eager's own distance.
TOLERANCE, TIMES_EAGER = 1e-4, 4.0
#: That share for products that may round to bfloat16 (8 bits), and for weights of 8 bits: the guard's own bounds.
ROUNDED_TOLERANCE = {BF16: 0.1, INT8: 0.2}
#: Calls after which an engine that was built meanwhile has certainly been noticed.
LOOKS = 40
#: Calls of a tiny graph until djinn must have settled on its engines.
SETTLING = 100


class Contender:
    """One way of running one case.

    Args:
        side: ``eager``, ``inductor``, ``openvino`` (its own backend, weights as constants), ``openvino-plain`` (weights
            as inputs: it takes some models that the other does not), ``onnxruntime``, ``djinn`` (engine "auto", in the
            background), ``djinn-blocking``, ``djinn-bf16`` (the same, products may round to bfloat16), ``djinn-int8``
            (weights may be rounded to 8 bits as well), or ``djinn:NAME`` (that engine, blocking). What follows a blank
            is ignored.
        case: see :mod:`bench.engines.models`.
        batch: of the case.
        quick: a narrow model.
    """

    def __init__(self, side: str, case: str, batch: int, quick: bool) -> None:
        self._side = side.partition(" ")[0]
        torch.set_grad_enabled(False)
        self._work = workload(case, batch, quick)
        self._compiled: Callable[..., Any] = self._work.module
        self._call: Callable[[tuple[torch.Tensor, ...]], Answer] = self._called
        self._started = 0.0

    def facts(self) -> Found:
        """What is measured here."""
        return {"parameters": parameters(self._work.module), "threads": torch.get_num_threads()}

    def _called(self, inputs: tuple[torch.Tensor, ...]) -> Answer:
        return (self._compiled(*inputs),)

    # The first result

    def compile(self) -> Found:
        """Seconds from the start of compiling to the first result. What is imported on the way counts."""
        self._work.reset()
        self._started = time.perf_counter()
        if self._side == "onnxruntime":
            session = Session(self._work)
            self._call = session.run
        else:
            self._compiled = self._made()
        self._call(self._work.inputs)
        return {"seconds": time.perf_counter() - self._started}

    def _made(self) -> Callable[..., Any]:
        module = self._work.module
        if self._side == "eager":
            return module
        if self._side == "inductor":
            return torch.compile(module)
        if self._side in ("openvino", "openvino-plain"):
            import openvino.torch  # noqa: F401 - it enters its backend

            config = {"INFERENCE_PRECISION_HINT": "f32"}
            options = {"device": "CPU", "config": config, "aot_autograd": self._side == "openvino"}
            return torch.compile(module, backend="openvino", options=options)
        head, _, engine = self._side.partition(":")
        way = "background" if head == "djinn" and not engine else "blocking"
        options = {"engine": engine or "auto", "compile": way, "progress": False}
        if self._side in PRECISION:
            options["precision"] = PRECISION[self._side]
        return torch.compile(module, backend=backend_of("djinn"), options=options)

    def ready(self, limit_s: float) -> Found:
        """Seconds from the start of compiling until the engines that djinn settled on in the end were serving.

        First calls alone, until djinn has decided between the engines that are there. Then what is still being built
        is waited for, and called until djinn has decided again. Where that changes nothing, the first time counts.
        """
        import djinn_fx

        first = self._settle(limit_s)
        djinn_fx.wait_until_ready(self._compiled, max(0.0, self._started + limit_s - time.perf_counter()))
        for _ in range(LOOKS):  # an engine that has come since takes part after some calls
            self._one()
        last = self._settle(limit_s)
        status = djinn_fx.status(self._compiled)
        seconds = first["seconds"] if first["engines"] == last["engines"] else last["seconds"]
        found = {"seconds": seconds, "ready": status.ready and last["decided"], "status": str(status)}
        return found | {"first": first, "last": last}

    def _settle(self, limit_s: float) -> Found:
        """Call until djinn has decided. At least one call; up to ``limit_s`` seconds after the start."""
        import djinn_fx

        while True:
            self._one()
            seconds = time.perf_counter() - self._started
            status = djinn_fx.status(self._compiled)
            serving = not status.unplanned and all(c.decided for c in status.contests)
            if not status.contests:
                serving = serving and status.ready
            if serving or seconds > limit_s:
                return {"seconds": seconds, "decided": serving, "engines": engines_of(self._compiled)[0]}

    def _one(self) -> float:
        self._work.reset()
        start = time.perf_counter()
        self._call(self._work.inputs)
        return time.perf_counter() - start

    # Later results

    def run(self, calls: int) -> list[float]:
        """Seconds of each of some calls, after one that is not counted: another process had the caches of the CPU."""
        with no_gc():
            self._one()
            return [self._one() for _ in range(calls)]

    def answer(self) -> Answer:
        """Of other inputs than those that were timed."""
        self._work.reset()
        found = self._call(self._work.others)
        return found if self._side == "onnxruntime" else (*found, *self._work.written())

    def check(self, reference: str) -> Found:
        """How far the answer is from the reference's, as a share of the largest value; the worst of its tensors."""
        expected = torch.load(reference, weights_only=True)
        answer = [_sample(one) for one in self.answer()]
        if len(answer) != len(expected["float64"]):
            return {"wrong": True, "to_float64": 1.0, "to_eager": 1.0, "eagers": 0.0}
        found = {"to_float64": 0.0, "to_eager": 0.0, "eagers": 0.0, "wrong": False}
        for mine, exact, eager in zip(answer, expected["float64"], expected["eager"], strict=True):
            one = {"to_float64": distance(mine, exact), "to_eager": distance(mine, eager)}
            one["eagers"] = distance(eager, exact)
            tolerance = ROUNDED_TOLERANCE.get(self._side, TOLERANCE)
            found["wrong"] = found["wrong"] or one["to_float64"] > max(tolerance, TIMES_EAGER * one["eagers"])
            found |= {name: max(found[name], value) for name, value in one.items()}
        return found

    def judge(self, file: str) -> None:
        """Write eager's answer and the one of the same model in float64: what answers are held against."""
        eager = [_sample(one) for one in self.answer()]
        self._work = doubled(self._work)
        self._compiled = self._work.module
        torch.save({"eager": eager, "float64": [_sample(one) for one in self.answer()]}, file)

    # What it holds

    def holds(self) -> Found:
        """Bytes of memory, and which engines djinn's regions run on."""
        found: Found = {"rss": _resident(), "engines": {}, "packed": None, "refused": []}
        if self._side.startswith("openvino"):
            from openvino.frontend.pytorch.torchdynamo import execute

            found["engines"] = {
                "openvino": len(execute.compiled_cache)
            }  # parts that it cannot run are torch's, silently
        if self._side.startswith("djinn"):
            engines, refused = engines_of(self._compiled)
            found |= {"engines": engines, "refused": refused, "packed": packed_bytes(self._compiled)}
        return found

    # Saved callables

    def save(self, file: str) -> None:
        """Compile ahead of time, with what was decided so far, and save that."""
        # Torch cannot save the guards that tell one object from another.
        options = {"progress": False, "guard_filter_fn": torch.compiler.keep_portable_guards_unsafe}
        compiled: Any = torch.compile(self._work.module, backend=backend_of("djinn"), fullgraph=True, options=options)
        self._work.reset()
        compiled.forward.aot_compile((self._work.inputs, {})).save_compiled_function(file)

    def load(self, file: str, reference: str) -> Found:
        """Load what was saved, and call it: seconds of each. To be asked of a new process, before anything else."""
        self._work.reset()
        start, cpu = time.perf_counter(), time.process_time()
        with open(file, "rb") as saved:
            loaded: Any = torch.compiler.load_compiled_function(saved)
        loaded_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        self._compiled = lambda *inputs: loaded(self._work.module, *inputs)
        first = self._one()
        later = {"second": self._one(), "check": self.check(reference)}
        return {"load": loaded_s, "load_cpu": cpu_s, "first": first, **later}


class Session:
    """The peer: ``torch.onnx.export`` of the model without state, and a session with default options.

    The state, if there is any, is fed back from call to call.
    """

    def __init__(self, work: Workload) -> None:
        import onnxruntime

        arguments = (*work.inputs, *work.state)
        folder = Path(os.environ["TMPDIR"], f"model-{time.monotonic_ns()}")
        folder.mkdir()
        program = torch.onnx.export(work.functional, arguments, dynamo=True, verbose=False)
        assert program is not None
        program.save(str(folder / "model.onnx"), external_data=True)
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self._names = [one.name for one in self._session.get_inputs()]
        self._state = [tensor.numpy() for tensor in work.state]
        self._unfed = len(arguments) - len(self._names)
        if self._unfed:
            raise ValueError(f"the exporter left {self._unfed} inputs out")

    def run(self, inputs: tuple[torch.Tensor, ...]) -> Answer:
        """The result, then the keys and values."""
        given = [*(tensor.numpy() for tensor in inputs), *self._state]
        results = self._session.run(None, dict(zip(self._names, given, strict=True)))
        if self._state:  # how far the cache is filled is left as it was: every call writes the same place
            self._state[1:] = results[2:]
        return tuple(torch.from_numpy(one) for one in (results[0], *results[2:]))


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    step = flat.numel() // COMPARED + 1
    return flat[:: step + (step > 1 and step % 2 == 0)].double().clone()


def distance(mine: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference as a share of the other's largest value; 1 if sizes or finiteness differ."""
    if mine.shape != other.shape or not torch.equal(mine.isfinite(), other.isfinite()):
        return 1.0
    finite = other.isfinite()
    if not bool(finite.any()):
        return 0.0
    largest = max(float(other[finite].abs().max()), 1e-30)
    return float((mine[finite] - other[finite]).abs().max()) / largest


def _resident() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def engines_of(compiled: Callable[..., Any]) -> tuple[dict[str, int], list[str]]:
    """How many pieces of work run on each engine, and why engines refused or are out."""
    import djinn_fx
    from djinn_fx.backend import compilations

    status = djinn_fx.status(compiled)
    counts = Counter(contest.engine for contest in status.contests)
    if not counts:
        for one in status.regions:
            counts[one.engine] += one.repeats
    builds = [build for graph in compilations() for build in graph.builds]
    if not counts:
        counts.update(build.engine for build in builds)
    reasons = [reason for build in builds for reason in build.reasons if reason.kind.value == "engine-refused"]
    reasons += [one.reason for contest in status.contests for one in contest.entrants if one.reason is not None]
    return dict(counts), [text for text, _ in Counter(reason.detail[:200] for reason in reasons).most_common(5)]


def packed_bytes(compiled: Callable[..., Any]) -> int:
    """Bytes of the engines' own copies of weights, as djinn counts them."""
    import djinn_fx

    contests = djinn_fx.status(compiled).contests
    return sum(entrant.memory_bytes for contest in contests for entrant in contest.entrants)


# -- the cost of the dispatch between engines ----------------------------------------------------------------------


def _chain(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x * 2 + 1)


def dispatch(rounds: int, calls: int) -> dict[str, Sequence[float]]:
    """Microseconds a call of a region of three ops on four numbers: chosen by trial, and with that engine named.

    Returns:
        Samples by case; ``named again`` is compiled as ``named``.
    """
    torch.set_grad_enabled(False)
    x = torch.arange(4.0)
    auto = _compiled_copy("auto")
    for _ in range(SETTLING):
        auto(x)
    engines, _ = engines_of(auto)
    name = max(engines, key=lambda one: engines[one], default="inductor")
    cases = {"auto": auto, "named": _compiled_copy(name), "named again": _compiled_copy(name)}
    for case in cases.values():
        assert torch.equal(case(x), _chain(x))
        time_block(lambda case=case: case(x), calls // 4)  # type: ignore[misc]
    samples: dict[str, list[float]] = {one: [] for one in cases}
    for turn in range(rounds):
        for one in rotated(list(cases), turn):
            samples[one].append(1e6 * time_block(lambda case=cases[one]: case(x), calls))  # type: ignore[misc]
    return {**samples, "engine": name}  # type: ignore[dict-item]


def _compiled_copy(engine: str) -> Callable[..., Any]:
    """A function of its own code object, for Dynamo keeps what it compiled with the code object."""
    copy = types.FunctionType(_chain.__code__.replace(), _chain.__globals__, _chain.__name__)
    options = {"engine": engine, "compile": "blocking", "progress": False}
    return torch.compile(copy, backend=backend_of("djinn"), options=options)
