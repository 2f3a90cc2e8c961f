"""What djinn's TensorRT engine is worth on a GPU, against eager, Inductor and torch_tensorrt.

Steady calls of a Llama-like decoder (prefill and decode), BERT, ViT and ResNet, in one process, in blocks that take
turns, timed by CUDA events. For decode also as CUDA graphs, where the cost of launching is gone. A side that cannot be
had is named with the reason; every side's answer is held against eager's. See bench/README.md for how to read it.

    python bench/engines/gpu.py                       writes bench/results/gpu-<device>.json
    python bench/engines/gpu.py --quick --json FILE

Exit code: 0 measured; 1 with --strict, a bar does not hold; 2 nothing could be measured, for example for want of a
CUDA device, and nothing is written.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import djinn_fx.backend
from bench.harness.harness import Report, parse, parser, ratio, rotated, successive, table
from bench.harness.models import build, result, twin
from djinn_fx.engines.tensorrt.engine import TensorRTEngine
from djinn_fx.guard.compare import difference
from djinn_fx.guard.tolerance import tolerance_in_single

NOT_MEASURED = 2
DEVICE = "cuda"
RESULTS = Path(__file__).resolve().parents[1] / "results"
MODELS = ("llama-12", "llama-12-decode", "bert", "vit", "resnet")
QUICK_MODELS = ("llama-4", "llama-4-decode", "bert")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BASE = "inductor"
#: Seconds of GPU time a block of calls takes.
BLOCK_S, QUICK_BLOCK_S = 0.25, 0.02
ROUNDS, QUICK_ROUNDS = 15, 5

Call = Callable[[], Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = _arguments(argv)
    problem = why_not()
    if problem is not None:
        print(f"{problem}: nothing measured", file=sys.stderr)
        return NOT_MEASURED
    if arguments.json is None and not arguments.quick:
        arguments.json = RESULTS / f"gpu-{device_name()}.json"
    report = Report("gpu", arguments)
    report.fact("gpu", gpu_facts())
    rows: list[list[object]] = []
    wrong = 0
    for model in arguments.models:
        for dtype in arguments.dtypes:
            found = measure(model, dtype, arguments, report)
            wrong += sum(one["wrong"] is not None for one in found.values())
            rows += _rows(f"{model} {dtype}", found)
            _clear()
    print("\n" + table(["case", "side", "ms a call", f"of {BASE}", "noise", "answer"], rows), flush=True)
    report.bar("wrong", wrong, 0, "==")
    return report.finish()


def why_not() -> str | None:
    """Why nothing can be measured here; None if it can."""
    if not torch.version.cuda:
        return "no CUDA device (this torch is built without CUDA)"
    return None if torch.cuda.is_available() else "no CUDA device"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__ or "", runs=1)
    words = lambda text: tuple(filter(None, text.split(",")))  # noqa: E731
    made.add_argument("--models", type=words, metavar="A,B", help=f"default: {','.join(MODELS)}")
    made.add_argument("--dtypes", type=words, metavar="A,B", help="default: float16,bfloat16; with --quick float16")
    arguments = parse(made, argv)
    arguments.models = arguments.models or (QUICK_MODELS if arguments.quick else MODELS)
    arguments.dtypes = arguments.dtypes or (("float16",) if arguments.quick else ("float16", "bfloat16"))
    known = re.compile(r"llama-[1-9]\d*(-decode)?|bert|vit|resnet")
    for model in arguments.models:
        if not known.fullmatch(model):
            made.error(f"no model {model!r}; known: llama-N, llama-N-decode, bert, vit, resnet")
    for dtype in arguments.dtypes:
        if dtype not in DTYPES:
            made.error(f"no type {dtype!r}; known: {', '.join(DTYPES)}")
    return arguments


def device_name() -> str:
    """The GPU's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def gpu_facts() -> dict[str, Any]:
    """Device, driver and the versions that are not in every report."""
    engine = TensorRTEngine()
    capability = engine.capability()
    return {
        "name": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "driver": _driver_version(),
        "cuda": torch.version.cuda,
        "tensorrt": dict(capability.versions),
        "tensorrt_why_not": capability.why_not,
        "torch_tensorrt": _torch_tensorrt(),
    }


def _driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(done.stdout.split("\n")), None) if done.returncode == 0 else None


def _torch_tensorrt() -> str:
    """Its version, or why it is left out."""
    try:
        return str(importlib.import_module("torch_tensorrt").__version__)
    except Exception as error:  # noqa: BLE001  (importing it loads libraries and may raise anything; the cause is kept)
        return f"absent: {type(error).__name__}: {error}"


# -- cases ---------------------------------------------------------------------------------------------------------


class DecodeStep(torch.nn.Module):
    """One step of a decoder with a static cache, which it writes.

    Args:
        model: a causal language model of Transformers.
        length: of the cache, in tokens.
    """

    def __init__(self, model: Any, length: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.place = length // 2
        from transformers import StaticCache

        self.model = model
        self.cache = StaticCache(config=model.config, max_cache_len=length)
        heads = model.config.num_key_value_heads
        width = model.config.hidden_size // model.config.num_attention_heads
        self.cache.early_initialization(1, heads, width, dtype, torch.device(DEVICE))

    def forward(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """The next token's logits, written at the same place of the cache in every call: all calls are alike."""
        for layer in self.cache.layers:
            filled = getattr(layer, "cumulative_length", None)
            if filled is not None:  # Transformers that count themselves take no position from the caller
                filled.fill_(self.place)
        made = self.model(
            input_ids=input_ids, past_key_values=self.cache, cache_position=cache_position, use_cache=True
        )
        return result(made)


def case(name: str, dtype: torch.dtype, quick: bool) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A model on the GPU and the arguments of a call."""
    family = name.removesuffix("-decode")
    model, inputs, _ = build(family, quick)
    model = model.to(DEVICE, dtype)
    if name != family:
        step = DecodeStep(model, 128 if quick else 1024, dtype).eval()
        return step, {
            "input_ids": inputs["input_ids"][:, :1].to(DEVICE),
            "cache_position": torch.tensor([step.place], device=DEVICE),
        }
    moved = {
        key: value.to(DEVICE, dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for key, value in inputs.items()
    }
    return model, moved


def sides(model: torch.nn.Module, decode: bool) -> dict[str, Callable[[], Any]]:
    """Each side as what makes its callable; making may fail, and then the cause is the side's result."""

    def with_backend(**how: Any) -> Callable[[], Any]:
        return lambda: torch.compile(model if decode else twin(model), **how)

    djinn = {"backend": djinn_fx.backend.djinn, "options": {"engine": "tensorrt", "compile": "blocking"}}
    found: dict[str, Callable[[], Any]] = {
        "eager": lambda: model,
        BASE: with_backend(backend="inductor"),
        "inductor max-autotune": with_backend(backend="inductor", mode="max-autotune-no-cudagraphs"),
        "djinn tensorrt": with_backend(**djinn),
    }
    if not _torch_tensorrt().startswith("absent"):
        found["torch_tensorrt"] = with_backend(backend="torch_tensorrt")
    if decode:
        found["inductor reduce-overhead"] = with_backend(backend="inductor", mode="reduce-overhead")
        for side in ("eager", BASE, "djinn tensorrt"):
            found[f"{side} + CUDA graph"] = found[side]
    return found


def captured(call: Call) -> Call:
    """The call as a CUDA graph: replays it, and gives the tensor it filled."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        made = call()

    def replay() -> Any:
        graph.replay()
        return made

    return replay


# -- measuring -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(name: str, dtype: str, arguments: argparse.Namespace, report: Report) -> dict[str, dict[str, Any]]:
    """All sides of one model, interleaved: by side its samples, or why there are none, and what is wrong with it."""
    torch._dynamo.reset()
    djinn_fx.backend.reset()
    torch._dynamo.config.recompile_limit = 64  # the sides share code objects, and each is a compilation of them
    model, inputs = case(name, DTYPES[dtype], arguments.quick)
    expected = result_of(model(**inputs)).clone()
    found: dict[str, dict[str, Any]] = {}
    calls: dict[str, Call] = {}
    for side, make in sides(model, name.endswith("-decode")).items():
        found[side] = {"samples": [], "why_not": None, "wrong": None}
        try:
            run = make()
            call = lambda run=run: run(**inputs)  # noqa: E731
            for _ in range(3):
                answer = result_of(call())
            if side.endswith("CUDA graph"):
                call = captured(call)
                answer = result_of(call())
            found[side]["wrong"] = difference([answer.contiguous()], [expected.contiguous()], tolerance_in_single)
            calls[side] = call
        except Exception as error:  # noqa: BLE001  (a foreign compiler on this model; the cause is printed and kept)
            found[side]["why_not"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    if BASE in calls:
        calls[f"{BASE} again"] = calls[BASE]
        found[f"{BASE} again"] = {"samples": [], "why_not": None, "wrong": None}
    _time(calls, found, arguments.quick)
    _keep(f"{name} {dtype}", found, report)
    return found


def result_of(output: Any) -> torch.Tensor:
    """The tensor that answers are compared by."""
    return output if isinstance(output, torch.Tensor) else result(output)


def _time(calls: Mapping[str, Call], found: dict[str, dict[str, Any]], quick: bool) -> None:
    block_s = QUICK_BLOCK_S if quick else BLOCK_S
    number = {side: max(3, int(block_s / max(seconds(call, 5), 1e-6))) for side, call in calls.items()}
    gc.collect()
    gc.disable()
    try:
        for turn in range(QUICK_ROUNDS if quick else ROUNDS):
            for side in rotated(list(calls), turn):
                found[side]["samples"].append(seconds(calls[side], number[side]))
    finally:
        gc.enable()


def seconds(call: Call, number: int) -> float:
    """Seconds a call on the GPU, over a block of calls: what the host is late with counts too."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(number):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / number


def _keep(name: str, found: Mapping[str, Mapping[str, Any]], report: Report) -> None:
    for side, one in found.items():
        if one["samples"]:
            report.measured(f"{name} {side}", one["samples"], "s")
        if one["why_not"] or one["wrong"]:
            report.fact(f"{name} {side}", {"why_not": one["why_not"], "wrong": one["wrong"]})
    base = found.get(BASE, {}).get("samples")
    if not base:
        return
    noise = ratio(found[f"{BASE} again"]["samples"], base)
    for side, one in found.items():
        if one["samples"] and not side.startswith(f"{BASE} again") and side != BASE:
            report.ratio(f"{name} {side}", ratio(one["samples"], base), noise)
    builds = [build for graph in djinn_fx.backend.compilations() for build in graph.builds]
    report.fact(
        f"{name} regions",
        {
            "engines": {engine: sum(one.engine == engine for one in builds) for engine in {b.engine for b in builds}},
            "reasons": sorted({str(reason) for one in builds for reason in one.reasons}),
        },
    )


def _rows(name: str, found: Mapping[str, Mapping[str, Any]]) -> list[list[object]]:
    base = found.get(BASE, {}).get("samples")
    noise = successive(base) if base else None
    rows: list[list[object]] = []
    for side, one in found.items():
        if one["why_not"]:
            rows.append([name, side, "", "", "", one["why_not"][:60]])
            continue
        middle = statistics.median(one["samples"])
        share = f"{ratio(one['samples'], base).median:.3f}" if base else ""
        spread = f"{noise.low:.3f}-{noise.high:.3f}" if noise is not None else ""
        rows.append([name, side, f"{1e3 * middle:.3f}", share, spread, "WRONG" if one["wrong"] else "as eager's"])
    return rows


def _clear() -> None:
    torch._dynamo.reset()
    djinn_fx.backend.reset()
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
