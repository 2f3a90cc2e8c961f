"""A worker that tells what a child sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import djinn_fx


def build(request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
    """Modules, path, and what a polite process has set."""
    with open("/proc/self/oom_score_adj", encoding="utf-8") as file:
        score = int(file.read())
    return {
        "modules": sorted(sys.modules),
        "djinn_fx": djinn_fx.__file__,
        "path": sys.path,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "policy": os.sched_getscheduler(0),
        "oom_score_adj": score,
    }, b""
