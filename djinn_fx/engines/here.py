"""What measurements and proofs of this process hold for: the machine, the processors it may use, torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from djinn_fx.hardware.machine import machine_identity


def here() -> dict[str, Any]:
    """A JSON object that is equal where times and checked answers of one process hold for another."""
    return {
        "machine": machine_identity(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def here_digest() -> str:
    """The same in 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(here(), sort_keys=True).encode()).hexdigest()[:16]
