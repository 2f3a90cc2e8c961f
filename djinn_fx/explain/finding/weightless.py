"""Models without the memory of their weights: a config of 70 billion parameters is explained on a laptop.

A constructor runs for real, and each parameter loses its memory as it is registered: it goes to torch's ``meta``
device, as Accelerate's ``init_empty_weights`` has it. So a constructor that computes with other tensors passes, which
it does not under a plain ``torch.device("meta")``. What was made then gets fake tensors of the CPU, which have sizes
and types but no values, and is captured with these.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

#: What has no memory anyway.
_AS_IT_IS = (FakeTensor, UninitializedParameter, UninitializedBuffer)
#: Torch's class is changed for the whole process, so by one at a time.
_CHANGING = threading.Lock()


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Parameters that are registered meanwhile have no memory."""
    with _CHANGING:
        usual = nn.Module.register_parameter

        def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
            usual(self, name, param)
            if param is not None and param.device.type != "meta" and not isinstance(param, _AS_IT_IS):
                given = dict(vars(param))
                made = type(param)(param.detach().to("meta"), requires_grad=param.requires_grad)
                vars(made).update(given)
                self._parameters[name] = made

        nn.Module.register_parameter = register  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.register_parameter = usual  # type: ignore[method-assign]


class OnThisMachine(TorchFunctionMode):
    """What is to be on a GPU that is not there stays on the CPU, and what has no memory stays without.

    A file that says ``cuda`` means the device that it is explained for.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda) and args[0].device.type == "meta":
            return args[0].to(dtype=torch._C._nn._parse_to(*args[1:], **kwargs)[1] if func is torch.Tensor.to else None)
        if torch.cuda.is_available():
            return func(*args, **kwargs)
        if func is torch.Tensor.cuda:
            return args[0]
        return func(*map(_here, args), **{name: _here(value) for name, value in kwargs.items()})


@contextlib.contextmanager
def described_device() -> Iterator[None]:
    """``cuda`` means the device that is described: what is put there stays here, and waiting for it is nothing."""
    if torch.cuda.is_available():
        yield
        return
    usual = torch.cuda.synchronize
    torch.cuda.synchronize = _wait_for_nothing
    try:
        with OnThisMachine():
            yield
    finally:
        torch.cuda.synchronize = usual


def _wait_for_nothing(device: Any = None) -> None:
    del device


def _here(value: Any) -> Any:
    gpu = isinstance(value, (str, torch.device)) and str(value).partition(":")[0] == "cuda"
    return torch.device("cpu") if gpu else value


def fake_mode() -> FakeTensorMode:
    """Tensors that are made in it have no values; others may be used in it, and are not changed."""
    return FakeTensorMode(allow_non_fake_inputs=True)


class Faker:
    """Gives modules and values fake tensors; what was one tensor stays one.

    Args:
        mode: of the fake tensors.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self._known: dict[int, torch.Tensor] = {}
        self._kept: list[torch.Tensor] = []  # so that no other tensor gets the number of one that is known
        self.nbytes = 0

    def fill(self, model: nn.Module) -> None:
        """Change a module's parameters and buffers in place."""
        for module in list(model.modules()):
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    setattr(module, name, self._of(parameter))
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = self._of(buffer)

    def values(self, value: Any) -> Any:
        """The same with fake tensors in the place of real ones, in objects too."""
        return pytree.tree_map(self._value, value)

    def _value(self, one: Any) -> Any:
        if isinstance(one, torch.Tensor):
            return self._of(one)
        if isinstance(one, (type, nn.Module)) or not hasattr(one, "__dict__"):
            return one
        with self._copies_faked():  # an object, such as a cache of keys: its tensors may be anywhere in it
            return copy.deepcopy(one)

    @contextlib.contextmanager
    def _copies_faked(self) -> Iterator[None]:
        """A deep copy of a tensor meanwhile is its fake one."""
        with _CHANGING:
            usual = torch.Tensor.__deepcopy__
            torch.Tensor.__deepcopy__ = lambda tensor, memo: self._of(tensor)  # type: ignore[method-assign]
            try:
                yield
            finally:
                torch.Tensor.__deepcopy__ = usual  # type: ignore[method-assign]

    def _of(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, _AS_IT_IS) and not isinstance(tensor, FakeTensor):
            return tensor
        known = self._known.get(id(tensor))
        if known is None:
            self.nbytes += tensor.nbytes
            self._kept.append(tensor)
            known = self._known[id(tensor)] = self._fake(tensor)
        return known

    def _fake(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if tensor.device.type != "meta":
            return self.mode.from_tensor(tensor)
        with self.mode:
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(made, requires_grad=tensor.requires_grad)
        return made.requires_grad_(tensor.requires_grad)


#: What torch says where an op needs a value, or memory, that is not there.
_LACKS = (
    "meta tensor",
    "device meta",
    "cpu and meta",
    "meta and cpu",
    "data pointer",
    "data-dependent",
    "Data dependent",
)


def for_lack_of_values(error: BaseException) -> bool:
    """Whether something failed that may pass with real tensors."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if type(one).__module__ == "torch._subclasses.fake_tensor" or any(word in str(one) for word in _LACKS):
            return True
        left += [one.__cause__, one.__context__, getattr(one, "inner_exception", None)]
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had."""
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
