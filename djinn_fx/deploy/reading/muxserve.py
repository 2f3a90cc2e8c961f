"""MuxServe's models.yaml: language models with the devices that each takes, and how often each is asked.

The form is that of the project's examples (hao-ai-lab/MuxServe): ``num_gpus``, and ``models`` with ``name``,
``model``, ``tensor_parallel_size``, ``pipeline_parallel_size``, ``model_dtype``, in some of them ``rate``. What a
planner needs besides and the form lacks is read from the same entries: ``memory_gb`` and ``inference_time_mean`` (or
tokens and their rate). Its ``placement`` is an answer, not a wish: it is not read. Each model
becomes a workflow of one node, by its own name.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from djinn_fx.deploy.reading.config import number, read_file
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.requests import made_requests
from djinn_fx.deploy.reading.workload import Config, ModelInfo, NodeInfo, Workload

#: Bytes of a parameter by the words of ``model_dtype``.
BYTES = {"fp16": 2, "float16": 2, "bf16": 2, "bfloat16": 2, "fp32": 4, "float32": 4, "fp8": 1, "int8": 1}
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])")


def is_muxserve(path: Path) -> bool:
    """Whether a file looks like one of these: a list of models with parallel sizes."""
    top = read_file(path, "a configuration")
    models = top.value.get("models") if top is not None and isinstance(top.value, dict) else None
    rows = models.value if models is not None and isinstance(models.value, list) else []
    return bool(rows) and all(isinstance(one.value, dict) and "tensor_parallel_size" in one.value for one in rows)


def read_muxserve(path: Path, faults: Faults) -> tuple[Config, dict[str, float]]:
    """The configuration, and requests a second of each model, where the file says."""
    top = read_file(path, "a configuration")
    assert top is not None
    models: dict[str, ModelInfo] = {}
    rates: dict[str, float] = {}
    for one in top.mapping("models.yaml")["models"].items("models"):
        parts = one.mapping("a model")
        name = str(parts["name"].value) if "name" in parts else f"llm-{len(models)}"
        what = f"model {name!r}"
        if name in models:
            faults.add(one, f"the model {name!r} is there twice")
        gang = 1
        for key in ("tensor_parallel_size", "pipeline_parallel_size"):
            gang *= int(number(parts, key, what, faults, 1.0, above=1.0) or 1)
        memory = number(parts, "memory_gb", what, faults)
        size = _SIZE.search(str(parts["model"].value) if "model" in parts else "")
        if memory is None and size is not None:
            dtype = str(parts["model_dtype"].value) if "model_dtype" in parts else "fp16"
            memory = float(size[1]) * BYTES.get(dtype, 2)
        if memory is None:
            faults.add(one, f"{what}: give memory_gb: its name does not say how many billion parameters it has")
        mean = number(parts, "inference_time_mean", what, faults)
        tokens, speed = number(parts, "token_mean", what, faults), number(parts, "tokens_per_second", what, faults)
        if mean is None and tokens and speed:
            mean = tokens / speed
        if mean is None:
            faults.add(
                one, f"{what}: give inference_time_mean, or token_mean and tokens_per_second: the form has no times"
            )
        models[name] = ModelInfo(
            name, round((memory or 0) * 1e9), gang, expected_s=mean, place=f"{one.file}:{one.line}"
        )
        rates[name] = number(parts, "rate", what, faults, 0.0) or 0.0
    workflows = {name: (NodeInfo(name, name, (), ()),) for name in models}
    return Config(str(path), models, workflows), rates


def requests_at_rates(config: Config, rates: dict[str, float], seconds: float, seed: int = 0) -> Workload:
    """Requests of a Poisson process for each model, for so long."""
    chance = random.Random(seed)
    rows = []
    for name, rate in rates.items():
        at = chance.expovariate(rate) if rate else seconds
        while at < seconds:
            rows.append((at, name))
            at += chance.expovariate(rate)
    means = {name: one.expected_s or 0.0 for name, one in config.models.items()}
    return made_requests(config, sorted(rows), means)
