"""What a model returns, as JSON and tensors: nothing that is unpickled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.errors import EngineError

#: How deep lists in lists may go.
_DEPTH = 32


def taken_apart(value: Any, tensors: list[torch.Tensor], depth: int = _DEPTH) -> Any:
    """A JSON value in which tensors are numbers of places.

    Args:
        value: a tensor, number, text or None, or lists, tuples and mappings of such.
        tensors: what is found is added here.
        depth: of lists and mappings in each other, at most.

    Raises:
        EngineError: there is something else in it.
    """
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if depth and isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [taken_apart(one, tensors, depth - 1) for one in value]}
    if depth and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        # A pair each, so that no key is taken for one of ours. Models of transformers return such mappings.
        return {"dict": [[key, taken_apart(one, tensors, depth - 1)] for key, one in value.items()]}
    raise EngineError(
        f"a result with a {type(value).__name__} cannot travel: tensors, numbers, texts, and lists, tuples and "
        f"mappings of them do, {_DEPTH} deep at most"
    )


def put_together(tree: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """The value that :func:`taken_apart` took apart."""
    (kind, content), *_ = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: put_together(one, tensors) for key, one in content}
    if kind == "value":
        return content
    made = [put_together(one, tensors) for one in content]
    return tuple(made) if kind == "tuple" else made


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal: tensors within what ``torch.testing`` allows of their type, times ten."""
    if isinstance(left, torch.Tensor):
        if not isinstance(right, torch.Tensor) or left.shape != right.shape or left.dtype != right.dtype:
            return False
        exact = not (left.is_floating_point() or left.is_complex())
        if exact:
            return torch.equal(left, right)
        rough = left.dtype in (torch.bfloat16, torch.float16)
        rtol, atol = (1e-2, 1e-3) if rough else (1e-5, 1e-5)
        scale = max(1.0, float(left.abs().max())) if left.numel() and bool(left.isfinite().all()) else 1.0
        return torch.allclose(left, right, rtol=rtol, atol=atol * scale, equal_nan=True)
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right) or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


__all__ = ["put_together", "same", "taken_apart"]
