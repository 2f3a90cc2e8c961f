"""The process-wide switches that change what Inductor generates: their digest for keys, and as data for a child."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import torch


def digest(value: Any) -> str:
    """A short hash of anything with a JSON form; what has none counts by its text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def flags() -> str:
    """All switches in one short hash: those torch puts into its own keys too."""
    return digest({"inductor": _config(), "passes": custom_passes(), **_switches()})


def custom_passes() -> dict[str, Any]:
    """What tells each of the user's own Inductor passes apart; None where there is none."""
    from torch._inductor import config

    return {name: _pass_identity(getattr(config, name, None)) for name in _CUSTOM_PASSES}


def as_data() -> dict[str, Any]:
    """The switches as a JSON object, for :func:`apply`. What has no JSON form is left out."""
    config = _config()
    plain = _plain(config)
    return {"inductor": {name: plain[name] for name in config if _same(config[name], plain[name])}, **_switches()}


def apply(data: Mapping[str, Any]) -> None:
    """Set the switches of this process as they are in another one, whose :func:`as_data` this is.

    Whether they are the same afterwards is for :func:`flags` to tell: some cannot be set, or have no JSON form.
    """
    from torch._inductor import config

    mine = _config()
    plain = _plain(mine)
    for name, value in data["inductor"].items():
        if name in mine and plain[name] != value:
            setattr(config, name, tuple(value) if isinstance(mine[name], tuple) else value)
    for name, value in data.items():
        if name != "inductor" and _switches().get(name) != value:
            _SETTERS[name](value)


def _config() -> dict[str, Any]:
    from torch._inductor import config

    settings = config.save_config_portable(ignore_private_configs=False)
    return {k: v for k, v in settings.items() if k not in {*_IGNORED_CONFIG, *_CUSTOM_PASSES}}


def _switches() -> dict[str, Any]:
    matmul = torch.backends.cuda.matmul
    return {
        "threads": torch.get_num_threads(),
        "deterministic": [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        ],
        "dtype": str(torch.get_default_dtype()),
        "matmul": [
            _matmul_precision(),
            matmul.allow_fp16_reduced_precision_reduction,
            matmul.allow_bf16_reduced_precision_reduction,
        ],
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "cudnn": [_cudnn_tf32(), torch.backends.cudnn.benchmark],
    }


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to be asked so once the newer switch was set
        return f"fp32_precision={torch.backends.cuda.matmul.fp32_precision}"


def _cudnn_tf32() -> bool | str:
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return str(getattr(torch.backends.cudnn, "fp32_precision", "unknown"))


def _set_deterministic(values: Any) -> None:
    enabled, warn_only, fill = values
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _set_dtype(name: str) -> None:
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if isinstance(dtype, torch.dtype):
        torch.set_default_dtype(dtype)


def _set_matmul(values: Any) -> None:
    matmul = torch.backends.cuda.matmul
    precision, fp16, bf16 = values
    if not precision.startswith("fp32_precision="):  # else the child's fingerprint will differ, and it refuses
        torch.set_float32_matmul_precision(precision)
    matmul.allow_fp16_reduced_precision_reduction = fp16
    matmul.allow_bf16_reduced_precision_reduction = bf16


def _set_mkldnn(enabled: bool) -> None:
    torch.backends.mkldnn.set_flags(enabled)


def _set_cudnn(values: Any) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = values


_SETTERS: dict[str, Callable[[Any], None]] = {
    "threads": torch.set_num_threads,
    "deterministic": _set_deterministic,
    "dtype": _set_dtype,
    "matmul": _set_matmul,
    "mkldnn": _set_mkldnn,
    "cudnn": _set_cudnn,
}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back; a text of ours in the place of what has no JSON form."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=lambda _: "no JSON form"))
    return plain


def _same(value: Any, plain: Any) -> bool:
    """Whether JSON gave a value back as it was, but for tuples, which come back as lists."""
    if isinstance(value, (tuple, list)) and isinstance(plain, list):
        return len(value) == len(plain) and all(map(_same, value, plain))
    return type(value) is type(plain) and bool(value == plain)


def _pass_identity(custom: Any) -> Any:
    """What tells a user's own pass apart: its uuid, as torch asks for; without one it is known in this process only."""
    if not custom or isinstance(custom, str):
        return custom or None
    if isinstance(custom, (list, tuple)):
        return [_pass_identity(one) for one in custom]
    uuid = getattr(custom, "uuid", None)
    identity = uuid() if callable(uuid) else None
    return str(identity) if identity is not None else f"{_PROCESS} {id(custom)}"


#: Stands for this process in the keys of what no other process can use.
_PROCESS = secrets.token_hex(8)

#: Inductor settings that hold callables; its portable configuration leaves them out.
_CUSTOM_PASSES = (
    "pre_grad_custom_pass",
    "joint_custom_pre_pass",
    "joint_custom_post_pass",
    "post_grad_custom_pre_pass",
    "post_grad_custom_post_pass",
    "_pre_fusion_custom_pass",
    "_post_fusion_custom_pass",
    "custom_partitioner_fn",
)

#: Inductor settings that say where and how fast to compile, not what.
_IGNORED_CONFIG = frozenset({"compile_threads", "worker_start_method", "verbose_progress", "debug_dir_root"})
