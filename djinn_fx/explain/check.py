"""Run the user's model eagerly and compare outputs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from djinn_fx.compiling.capture import buffers_kept
from djinn_fx.explain.report import Check

_HALVES = (2e-2, 2e-2)
#: By what may be rounded of float32.
_ROUNDED = {"allow-bf16": _HALVES, "allow-int8-weights": (1e-1, 1e-1)}


def run_eager(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the model on copies of its inputs, and leave its buffers as they were; see :func:`results`."""
    args, kwargs = copy_inputs(args, kwargs)
    with buffers_kept(model):
        return results(model, model(*args, **kwargs))


def results(model: Callable[..., Any], output: Any) -> Any:
    """What is compared: the output and, where gradients are on, the parameters' gradients of its sum."""
    parameters = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    gradients: tuple[Any, ...] = ()
    if parameters and leaves and torch.is_grad_enabled():
        sums = [leaf.float().sum() for leaf in leaves]
        gradients = torch.autograd.grad(sums, parameters, allow_unused=True)
    return detached(output), gradients


def is_random(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> bool:
    """Whether a second eager run, with another seed, gives something else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        again = run_eager(model, args, kwargs)
    return not compare(output, again).equal


def copy_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs that a call may write to. Tensors that came out of a graph are copied without their history."""

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().clone().requires_grad_(value.requires_grad)
        return copy.deepcopy(value)

    with _fakes_copied():
        return pytree.tree_map(copied, (args, kwargs))  # type: ignore[no-any-return]


@contextlib.contextmanager
def _fakes_copied() -> Iterator[None]:
    """Objects may hold fake tensors, such as a cache of keys: torch copies these by their memory, which they lack."""

    def copied(self: FakeTensor, memo: dict[int, Any]) -> Any:
        return memo.setdefault(id(self), self.detach().clone().requires_grad_(self.requires_grad))

    setattr(FakeTensor, "__deepcopy__", copied)  # noqa: B010
    try:
        yield
    finally:
        del FakeTensor.__deepcopy__


def detached(output: Any) -> Any:
    """The output without its autograd history."""
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, output)


def compare(expected: Any, actual: Any, precision: str = "exact") -> Check:
    """Compare two outputs of one model, leaf by leaf.

    The tolerance follows the coarsest dtype in them, or what may be rounded (the setting ``precision``); ``atol``
    counts in units of a tensor's largest value, if that is above 1.
    """
    wanted, got = pytree.tree_leaves(expected), pytree.tree_leaves(actual)
    tensors = [leaf for leaf in wanted if isinstance(leaf, torch.Tensor)]
    coarse = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors)
    rtol, atol = max(_ROUNDED.get(precision, (1e-3, 1e-4)), _HALVES if coarse else (0.0, 0.0))
    results = [_compare_leaf(one, other, rtol, atol) for one, other in zip(wanted, got, strict=False)]
    return Check(
        equal=len(wanted) == len(got) and all(equal for equal, _ in results),
        max_difference=max((gap for _, gap in results), default=0.0),
        rtol=rtol,
        atol=atol,
    )


def _compare_leaf(wanted: Any, got: Any, rtol: float, atol: float) -> tuple[bool, float]:
    if not isinstance(wanted, torch.Tensor):
        plain = wanted is None or isinstance(wanted, (bool, int, float, str))
        return (wanted == got if plain else type(wanted) is type(got)), 0.0
    if not isinstance(got, torch.Tensor) or wanted.shape != got.shape or wanted.dtype != got.dtype:
        return False, 0.0
    left, right = wanted.detach().cpu(), got.detach().cpu()
    if not (left.is_floating_point() or left.is_complex()):
        return torch.equal(left, right), 0.0
    scale = max(1.0, float(left.abs().nan_to_num(0.0, 0.0).max())) if left.numel() else 1.0
    gap = (left - right).abs().nan_to_num(0.0)
    worst = float(gap.max()) if gap.numel() else 0.0
    return torch.allclose(left, right, rtol=rtol, atol=atol * scale, equal_nan=True), worst
