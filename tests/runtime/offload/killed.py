"""A process that calls an offloaded model again and again, until somebody ends it. Run by test_killed.py."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch

from tests.runtime.offload.saved import Stack, offloaded


def answer(folder: Path, calls: int | None) -> None:
    """Say the sum of each answer; without a number of calls for ever.

    Args:
        folder: where the weights are.
        calls: how many.
    """
    model = offloaded(Stack, folder, room=9 << 20)
    ids = torch.arange(12).view(2, 6) * 7
    count = 0
    with torch.no_grad():
        while calls is None or count < calls:
            print(repr(model(ids).double().sum().item()), flush=True)
            count += 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background without it
    answer(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
