"""Where a figure came about: the machine, its load, and the versions of everything that matters."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def device() -> dict[str, Any]:
    """What this machine is."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "gpus": names,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Of everything a figure depends on; None for what is not there."""
    import torch

    from djinn_fx import __version__

    try:
        transformers: str | None = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        transformers = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "djinn_fx": __version__,
        "transformers": transformers,
        "compiler": _first_line([os.environ.get("CXX", "g++"), "--version"]),
        "commit": _first_line(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        ),
    }


def _first_line(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(done.stdout.strip().splitlines()), None) if done.returncode == 0 else None


def load_average() -> list[float] | None:
    """Over 1, 5 and 15 minutes; None where the system has no such figure."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return None
