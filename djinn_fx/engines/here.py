"""What measurements and proofs of this process hold for: the machine, the processors it may use, torch."""

from __future__ import annotations

from typing import Any

import torch

from djinn_fx.engines.keys import digest_of
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
    return digest_of(here())[:16]
