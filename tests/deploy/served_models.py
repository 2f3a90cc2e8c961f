"""Modules that entries of the tests name."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


class Scale(torch.nn.Module):
    """Multiplies the sum of what it is given."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """The sum, scaled."""
        return self.factor * torch.stack([one.float() for one in values]).sum(0)


def prepare(data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Results of the nodes before, or the request's number."""
    return tuple(results.values()) or (torch.tensor([float(data["number"])]),)


def writer() -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Three times."""
    return Scale(3.0), prepare


def judge() -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Five times."""
    return Scale(5.0), prepare


painter = Scale(7.0)


def broken() -> torch.nn.Module:
    """Fails."""
    raise RuntimeError("no weights")


def odd() -> int:
    """No module."""
    return 7


def _fragile(data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    word = data.get("then")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "die once" and not Path(data["mark"]).exists():
        Path(data["mark"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        threading.Event().wait()
    if word == "fail":
        raise ValueError("not with this")
    return prepare(data, results)


def fragile() -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Twice, or what the request says."""
    return Scale(2.0), _fragile
