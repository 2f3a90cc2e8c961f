"""Settings: one frozen table, and where its values come from.

In order of priority: ``mode=`` and ``options=`` of ``torch.compile``, environment variables ``DJINN_<NAME>``,
``djinn.yaml`` in the working directory, the user's ``config.yaml``, the defaults.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError, field_validator

from djinn_fx.errors import SettingsError, UnitError, did_you_mean
from djinn_fx.files.private import default_cache_dir, default_config_dir
from djinn_fx.settings.budgets import KEEP_WEIGHTS, read_shares
from djinn_fx.settings.devices import DEVICE_MAP, DEVICES, LINKS, OBJECTIVE, PIN, DeviceSettings
from djinn_fx.settings.engines import TRAITS
from djinn_fx.settings.field import setting
from djinn_fx.settings.objects import checked_cost_model, checked_passes, object_text
from djinn_fx.settings.old_names import renewed
from djinn_fx.settings.sources import Source, from_call, from_environment, from_file
from djinn_fx.settings.workers import WORKER_MEMORY, WORKER_TIMEOUT, WORKERS
from djinn_fx.units import parse_bytes, parse_seconds

PROJECT_FILE = "djinn.yaml"
#: What ``engine`` may name besides "auto".
ENGINE_NAMES = tuple(TRAITS)
#: ``regions`` without a share.
_BOUNDARY_SHARE = 0.05
#: What ``cost_model`` may name; anything else is an object.
COST_MODELS = ("auto", "calibrated", "datasheet")


#: Groups of settings, in the table's order: a title and a sentence.
GROUPS = {
    "main": ("Main", "The ones that matter to most."),
    "engines": ("Engines", "How engines are used."),
    "planning": ("Planning", "Where a graph is cut, and by what times this is decided."),
    "devices": ("Devices", "Several devices of one machine, and what runs on which: see [placement](placement.md)."),
    "cache": ("Cache", "What is kept on disk. Where: see `cache_dir`."),
    "expert": ("Expert", "Rarely needed."),
}


class Settings(DeviceSettings, frozen=True, extra="forbid", strict=True):
    """Everything a user can set. Made by :meth:`load`; the fields' order is that of docs/settings.md."""

    engine: str | tuple[str, ...] = setting(
        "auto",
        "main",
        "what regions run on: `auto` tries the engines that are installed and keeps the fastest, a list tries those, a "
        "name is that engine; Inductor takes what it cannot; `eager` runs each region's own code",
        accepts=", ".join(f'"{name}"' for name in ("auto", *ENGINE_NAMES)) + ", or a list of engines",
        compiles=True,
    )
    compile: Literal["blocking", "background", "lazy"] = setting(
        "blocking",
        "main",
        "when regions are built: before the first call returns; in child processes while calls run eagerly; or so, but "
        "only those whose calls so far say that it pays",
    )
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = setting(
        "default", "main", "torch.compile's mode, handed to the engine; also accepted as `mode=`", compiles=True
    )
    precision: Literal["exact", "allow-bf16", "allow-int8-weights"] = setting(
        "exact",
        "main",
        "what an engine may round where that is faster: `allow-bf16`, products of float32 in bfloat16; "
        "`allow-int8-weights`, that, and weights of linear layers to 8-bit whole numbers with a scale for each output",
        compiles=True,
    )
    verify: str = setting(
        "first",
        "main",
        "when an engine's results are compared with eager's: the first for each shape, a share of all calls, or never",
        accepts='"first", "off", or "sample:" and a share, such as "sample:0.01"',
        pattern=r"^(first|off|sample:(0?\.[0-9]+|1(\.0*)?))$",
    )
    cache_dir: str | None = setting(
        None,
        "main",
        "folder in which compiled regions are kept; none: `djinn_fx` in the platform's cache folder",
        accepts="a path, or none",
        min_length=1,
    )
    on_failure: Literal["eager", "raise"] = setting(
        "eager", "engines", "when an engine fails on a region: run that region eagerly and record why, or raise"
    )
    weights: Literal["auto", "constant", "input"] = setting(
        "auto",
        "engines",
        "whether `openvino` and `onnxruntime` keep a packed copy of the weights, which is faster, or read them anew on "
        "every call; `auto`: a copy, until weights that change often make that the slower way",
        compiles=True,
    )
    keep_weights: Literal["memory", "packed"] = KEEP_WEIGHTS
    fallback_random: bool = setting(
        True, "engines", "draw the random numbers that eager would draw", accepts="true or false", compiles=True
    )
    target: str | None = setting(
        None,
        "engines",
        "GPU that TensorRT builds for, such as `sm89`; none: the one that is present",
        accepts="a compute capability such as sm89, or none",
        compiles=True,
        pattern=r"^sm[0-9]{2,3}$",
    )
    regions: str = setting(
        "auto",
        "planning",
        "`auto` cuts a graph where its structure repeats, if that costs at most a share of the estimated run time, "
        "0.05 or the one that is given; `whole` never cuts",
        accepts='"auto", "whole", or "auto:" and a share, such as "auto:0.1"',
        compiles=True,
    )
    expected_calls: int = setting(
        1000,
        "planning",
        "how often you expect to call the compiled graph; weighs run time against compile time when cutting regions",
        accepts="a whole number of at least 1",
        compiles=True,
        ge=1,
    )
    compile_budget: str | None = setting(
        None,
        "planning",
        "seconds of building that one compiled graph may take; what is left over runs eagerly; none: no limit",
        accepts="a duration such as 60s or 2min, or none",
    )
    arena: bool = setting(
        False,
        "planning",
        "inference on the CPU: values that pass from one region to another lie in one allocation, at offsets that were "
        "solved for, and every call uses it again; `djinn_fx.status` says which do not, and why",
        accepts="true or false",
        compiles=True,
    )
    memory_budget: tuple[tuple[str, str], ...] | None = setting(
        None,
        "planning",
        "bytes of tensors that a compiled model may have in memory on a device: engines whose copies of weights do "
        "not fit take no part, a model that does not fit at all is an error with the smallest budget "
        "(docs/memory_budget.md); none: no limit",
        accepts='a size for each device, such as {"cpu": "2GB"} or the text cpu=2GB, or none',
        compiles=True,
    )
    activation_budget: str | None = setting(
        None,
        "planning",
        "bytes that the activations of a training step may take in each compiled graph, beside weights, inputs and "
        "gradients, as planned for its own ops; the rest is computed again in the backward pass; none: no limit",
        accepts="a size such as 500MB, or none",
        compiles=True,
    )
    cost_model: Any = setting(
        "auto",
        "planning",
        "what times are estimated by: `auto`, the calibrated profile of this machine if there is one that fits, else "
        "datasheets, corrected by what real calls take; `calibrated`, the same without that correction; `datasheet`, "
        "datasheets alone; or an object of your own with `name`, `op` and `region`",
        accepts='"auto", "calibrated", "datasheet", or a cost model (an object)',
        compiles=True,
        exclude=True,  # an object is not written into kept graphs: they are planned already
    )
    device: str | None = setting(
        None,
        "planning",
        "device that times are estimated for, by its row in the catalogue; none: the one that is present",
        accepts="a device's name such as h100-sxm, a row of a file such as lab.yaml#lab-gpu, or none",
        compiles=True,
        min_length=1,
    )
    topology: str | None = setting(
        None,
        "planning",
        "machines and links that plans are made for; in a YAML file the section `topology` itself (docs/topology.md)",
        accepts="a preset's name such as dgx-h100, a YAML file with a section topology, or none",
        compiles=True,
        min_length=1,
    )
    workers: Any = WORKERS
    worker_timeout: Any = WORKER_TIMEOUT
    worker_memory: Any = WORKER_MEMORY
    devices: Any = DEVICES
    links: Any = LINKS
    pin: Any = PIN
    device_map: Any = DEVICE_MAP
    objective: Literal["latency", "throughput"] = OBJECTIVE
    cache_limit: str = setting(
        "20GB",
        "cache",
        "size of the disk cache above which the entries used longest ago are removed; 0: nothing is kept on disk",
        accepts="a size such as 20GB or 512MiB, or 0",
    )
    mega_cache: bool = setting(
        False,
        "cache",
        "put compiled regions into `torch.compiler.save_cache_artifacts()` too; who loads such a bundle must import "
        "djinn_fx first",
        accepts="true or false",
    )
    passes: tuple[Any, ...] | None = setting(
        None,
        "expert",
        "passes to run instead of the default pipeline: names such as `find-regions{min-ops=4}`, or pass objects",
        accepts="a list of passes, or none",
        compiles=True,
    )
    check_passes: bool = setting(
        False, "expert", "verify the graph after each pass; for people who write passes", accepts="true or false"
    )
    progress: bool | None = setting(
        None,
        "expert",
        "show on stderr which region compiles, after the first second; none: when stderr is a terminal",
        accepts="true, false, or none",
    )

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_names(cls, value: Any) -> Any:
        names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
        if not names:
            raise ValueError("name at least one engine")
        known = ENGINE_NAMES if len(names) > 1 else ("auto", *ENGINE_NAMES)
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} is none{did_you_mean(name, known)}")
        distinct = tuple(dict.fromkeys(names))
        return distinct if len(distinct) > 1 else distinct[0]

    @field_validator("verify", mode="before")
    @classmethod
    def _verify_word(cls, value: Any) -> Any:
        # As YAML reads the word, or as somebody means it who writes `verify: no`.
        return "off" if value is False or str(value).lower() in ("off", "no", "false") else value

    @field_validator("regions")
    @classmethod
    def _regions_word(cls, value: str) -> str:
        if value not in ("auto", "whole"):
            head, _, share = value.partition(":")
            number = float(share) if re.fullmatch(r"[0-9.e+-]+", share) else -1.0
            if head != "auto" or not 0 <= number <= 1:
                raise ValueError("a share is a number from 0 to 1")
        return value

    @field_validator("cost_model", mode="before")
    @classmethod
    def _cost_model_shape(cls, value: Any) -> Any:
        return checked_cost_model(value, COST_MODELS)

    @field_validator("passes", mode="before")
    @classmethod
    def _passes_shape(cls, value: Any) -> Any:
        return checked_passes(value)

    @field_validator("cache_dir", mode="before")
    @classmethod
    def _cache_dir_text(cls, value: Any) -> Any:
        return os.path.expanduser(value) if isinstance(value, (str, os.PathLike)) else value

    @field_validator("cache_limit", mode="before")
    @classmethod
    def _cache_limit_zero(cls, value: Any) -> Any:
        return "0B" if value in (0, "0") and not isinstance(value, bool) else value

    @field_validator("cache_limit", "activation_budget")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        try:
            parse_bytes(value or "0B")
        except UnitError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("memory_budget", mode="before")
    @classmethod
    def _memory_budget_shares(cls, value: Any) -> Any:
        return read_shares(value)

    @field_validator("compile_budget")
    @classmethod
    def _compile_budget_duration(cls, value: str | None) -> str | None:
        try:
            parse_seconds(value or "0s")
        except UnitError as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def engines(self) -> tuple[str, ...]:
        """``engine`` as a tuple."""
        return (self.engine,) if isinstance(self.engine, str) else self.engine

    @property
    def max_boundary_share(self) -> float:
        """Largest share of the run time that cutting may cost, as ``regions`` says."""
        share = self.regions.partition(":")[2]
        return float(share) if share else _BOUNDARY_SHARE

    @property
    def cache(self) -> bool:
        """Whether anything is kept on disk."""
        return self.cache_limit_bytes > 0

    @property
    def cache_folder(self) -> Path:
        """``cache_dir``, or where the cache is if nothing is said."""
        return Path(self.cache_dir) if self.cache_dir else default_cache_dir()

    @property
    def memory_bytes(self) -> dict[str, int]:
        """``memory_budget`` in bytes by device."""
        return {device: parse_bytes(size) for device, size in self.memory_budget or ()}

    @property
    def compile_budget_s(self) -> float | None:
        """``compile_budget`` in seconds."""
        return parse_seconds(self.compile_budget) if self.compile_budget is not None else None

    @property
    def activation_budget_bytes(self) -> int | None:
        """``activation_budget`` in bytes."""
        return parse_bytes(self.activation_budget) if self.activation_budget is not None else None

    @property
    def cache_limit_bytes(self) -> int:
        """``cache_limit`` in bytes."""
        return parse_bytes(self.cache_limit)

    @staticmethod
    def load(
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Settings:
        """The settings in force.

        Args:
            mode: ``mode=`` of ``torch.compile``.
            options: ``options=`` of ``torch.compile``; never changed.
            environ: the environment; the process's own if None.
            cwd: folder that may hold ``djinn.yaml``; the working directory if None.

        Raises:
            SettingsError: an unknown name or an unacceptable value, and where it was written.
        """
        fields = Settings.model_fields
        sources = (
            from_file(default_config_dir() / "config.yaml", fields),
            from_file(cwd / PROJECT_FILE if cwd else Path(PROJECT_FILE), fields),
            from_environment(os.environ if environ is None else environ, fields),
            from_call(mode, options, fields),
        )
        merged = renewed({name: entry for source in sources for name, entry in source.items()})
        try:
            return Settings(**{name: entry.value for name, entry in merged.items()})
        except ValidationError as error:
            raise SettingsError(_refusal(error, merged)) from error

    def digest(self) -> str:
        """SHA-256 of the settings that change what is compiled; equal in every process."""
        values = {name: getattr(self, name) for name in Settings.model_fields if facts(name)["compiles"]}
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=object_text).encode()).hexdigest()


def facts(name: str) -> dict[str, Any]:
    """What the table says of a setting: its group, what it accepts, whether it changes what is compiled."""
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict), f"setting {name!r} is not made by setting"
    return extra


def accepted(name: str) -> str:
    """What a setting accepts, in words."""
    annotation = Settings.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        *others, last = (f'"{value}"' for value in get_args(annotation))
        return f"{', '.join(others)} or {last}"
    return str(facts(name)["accepts"])


def _refusal(error: ValidationError, merged: Source) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        entry = merged[name]
        ours = problem.get("ctx", {}).get("error")
        why = f" ({ours})" if isinstance(ours, ValueError) else ""
        lines.append(f"{entry.where}: {name} must be {accepted(name)}, not {entry.value!r:.80}{why}")
    return "\n".join(lines)
