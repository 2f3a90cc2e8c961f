"""A runtime for plans on a machine without a GPU: reads and writes memory at the addresses a session binds.

A plan is a number here; what it computes is the model it was made of, run by ONNX Runtime, or any function
on tensors. Everything a session does besides the CUDA calls themselves is done for real.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from djinn_fx.engines.tensorrt.run.calling import Calling
from djinn_fx.engines.tensorrt.run.session import Session
from djinn_fx.errors import EngineError

#: What the CPU's allocator promises; the session is told to ask for no more.
ALIGNMENT = 64

Function = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]


def at(address: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """The memory at an address as a tensor."""
    count = 1
    for size in shape:
        count *= size
    if count == 0:
        return torch.empty(tuple(shape), dtype=dtype)
    buffer = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(buffer, dtype=dtype).view(tuple(shape))


class FakeContext:
    """Notes what it is told."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.told: list[str] = []
        self.runs: list[int] = []

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.told.append(f"shape {name}")
        self.shapes[name] = shape

    def set_address(self, name: str, address: int) -> None:
        assert address % ALIGNMENT == 0, f"{name} is not aligned"
        self.told.append(name)
        self.addresses[name] = address

    def run(self, stream: int) -> None:
        driver, calling = self.driver, self.driver.calling
        if driver.fails:
            raise EngineError("tensorrt: run: as asked")
        given = []
        for one in calling.inputs:
            fixed = all(type(size) is int for size in one.shape)
            shape = one.shape if fixed else self.shapes[one.name]
            given.append(at(self.addresses[one.name], shape, getattr(torch, one.dtype)).clone())  # type: ignore[arg-type]
        for one, value in zip(calling.outputs, driver.function(given), strict=True):
            at(self.addresses[one.name], value.shape, getattr(torch, one.dtype)).copy_(value)
        self.runs.append(stream)


class FakeDriver:
    """See the module's text.

    Args:
        calling: what the plan takes and gives.
        function: what it computes.
    """

    def __init__(self, calling: Calling, function: Function, aliases: Mapping[str, str] | None = None) -> None:
        self.calling, self.function = calling, function
        self.aliases: Mapping[str, str] = aliases or {}
        self.contexts: list[FakeContext] = []
        self.loads = self.settled = 0
        self.current = 7
        self.fails = False
        self.says: Mapping[str, tuple[bool, str, tuple[int, ...]]] | None = None

    def load(self, plan: bytes, device: torch.device) -> FakeDriver:
        self.loads += 1
        return self

    def tensors(self) -> Mapping[str, tuple[bool, str, tuple[int, ...]]]:
        if self.says is not None:
            return self.says
        found: dict[str, tuple[bool, str, tuple[int, ...]]] = {}
        for one in self.calling.inputs:
            found[one.name] = (True, one.dtype, tuple(s if type(s) is int else -1 for s in one.shape))
        for made in self.calling.outputs:
            target = next((c.input for c in self.calling.copies if self.calling.outputs[c.output] is made), None)
            shape = made.shape
            if shape is None:
                shape = next(one.shape for one in self.calling.inputs if one.argument == target)  # type: ignore[assignment]
            assert shape is not None
            found[made.name] = (False, made.dtype, tuple(s if type(s) is int else -1 for s in shape))
        return found

    def context(self) -> FakeContext:
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    def stream(self, device: torch.device) -> int:
        return self.current

    def settle(self, device: torch.device) -> None:
        self.settled += 1


def session(calling: Calling, function: Function, **options: Any) -> tuple[Session, FakeDriver]:
    """A session on the CPU and its driver."""
    driver = FakeDriver(calling, function, options.pop("aliases", None))
    return Session(b"plan", calling, driver, device_type="cpu", label="region", **options), driver
