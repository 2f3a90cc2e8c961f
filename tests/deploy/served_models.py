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


def _marks() -> list[Path]:
    """A file for each copy of a model of this module that says that it is there."""
    return list(Path(os.environ["DJINN_TEST_MARKS"]).iterdir())


def _mark() -> None:
    (Path(os.environ["DJINN_TEST_MARKS"]) / str(os.getpid())).touch()


def _patient(data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    _mark()
    while len(_marks()) < data.get("copies", 0):
        threading.Event().wait(0.01)
    return prepare(data, results)


def patient() -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Twice, as soon as as many copies as the request says have been given a node."""
    return Scale(2.0), _patient


def lonely() -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Twice, and there can be one copy alone: a further one fails, and is counted."""
    _mark()
    if len(_marks()) > 1:
        raise RuntimeError("one is enough")
    return Scale(2.0), _patient


def _place(data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    _fragile(data, results)
    return (torch.tensor([os.getpid() + torch.get_num_threads() / 16], dtype=torch.float64),)


def place() -> tuple[torch.nn.Module, Callable[..., Any]]:
    """The process, and sixteenths by its threads; or what the request says."""
    return torch.nn.Identity(), _place


def prepare_rows(data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Results of the node before, or as many rows as the request says."""
    return tuple(results.values()) or (torch.ones(int(data["rows"]), 256),)


def stack() -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Two products of matrices."""
    return torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.Linear(1024, 256)), prepare_rows


def layer() -> tuple[torch.nn.Module, Callable[..., Any]]:
    """A layer of a transformer: in evaluation torch has one operator for all of it."""
    made = torch.nn.TransformerEncoderLayer(256, 4, 512, dropout=0.0, batch_first=True)
    return torch.nn.Sequential(torch.nn.Unflatten(0, (1, -1)), made, torch.nn.Flatten(0, 1)), prepare_rows
