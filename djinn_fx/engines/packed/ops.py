"""The ops of the packed engine: products with what is fused to them, and torch's private packed kernels.

A rewritten graph calls :func:`product`; run as it stands that is the plain form, ``aten``, which every machine has.
When weights are bound each product becomes whichever of these was measured to be the fastest for its shape:

- ``aten``: torch's own linear on the weight as it is, then the rest in place;
- ``mkl``: MKL's packed product (float32 only), then the rest in place;
- ``onednn``: oneDNN's inner product on a packed weight, with the rest fused.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from djinn_fx import freed
from djinn_fx.errors import useful_line
from djinn_fx.pool import procfs

#: What may follow a product: name → (the ATen op that makes a new tensor, oneDNN's name of it and its algorithm).
UNARY: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "relu": (torch.relu, "relu", ""),
    "gelu": (functional.gelu, "gelu", "none"),
    "gelu_tanh": (functools.partial(functional.gelu, approximate="tanh"), "gelu", "tanh"),
    "silu": (functional.silu, "swish", ""),
    "sigmoid": (torch.sigmoid, "sigmoid", ""),
    "tanh": (torch.tanh, "tanh", ""),
}
#: The same, written over its argument: source text with the argument as ``{0}``.
IN_PLACE: dict[str, str] = {
    "relu": "relu_({0})",
    "gelu": "gelu_({0})",
    "gelu_tanh": 'gelu_({0}, approximate="tanh")',
    "silu": "silu_({0})",
    "sigmoid": "{0}.sigmoid_()",
    "tanh": "{0}.tanh_()",
    "add": "{0}.add_({1})",
    "mul": "{0}.mul_({1})",
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": torch.add, "mul": torch.mul}

#: Types that oneDNN's inner product and MKL's packed product take.
ONEDNN_TYPES = (torch.float32, torch.bfloat16)
MKL_TYPES = (torch.float32,)


def product(x: Tensor, right: Tensor, bias: Tensor | None, after: str = "none", other: Tensor | None = None) -> Tensor:
    """``x @ right + bias``, then a pointwise op.

    Args:
        x: [..., k].
        right: [k, n], a weight or made of weights alone.
        bias: [n].
        after: ``"none"``, a name of ``UNARY``, or one of ``BINARY`` with ``other`` as the second operand.
        other: [..., n], for ``BINARY``.
    """
    result = functional.linear(x, right.t(), bias)
    if after in UNARY:
        return UNARY[after][0](result)
    if after in BINARY:
        assert other is not None, "a binary op has a second operand"
        return BINARY[after](result, other)
    return result


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    after: str = "none",
    other: Tensor | None = None,
) -> Tensor:
    """A two-dimensional convolution, then a pointwise op.

    Args:
        x: [batch, channels in, height, width].
        weight: [channels out, channels in / groups, height, width], a weight or made of weights alone.
        bias: [channels out].
        stride: two numbers, as ``padding`` and ``dilation``.
        padding: in elements.
        dilation: in elements.
        groups: of channels.
        after: ``"none"``, a name of ``UNARY``, ``"add"`` or ``"add_relu"`` with ``other`` as the second operand.
        other: as large as the result.
    """
    result = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if after in UNARY:
        return UNARY[after][0](result)
    if after == "none":
        return result
    assert other is not None, "a binary op has a second operand"
    result = result + other
    return torch.relu_(result) if after == "add_relu" else result


def settled(x: Tensor) -> Tensor:
    """The tensor contiguous, also in the strides of sizes of one; itself if it is."""
    result = x.contiguous()
    strides, step = [], 1
    for size in reversed(result.shape):
        strides.append(step)
        step *= max(size, 1)
    strides.reverse()
    return result if list(result.stride()) == strides else result.as_strided(result.shape, strides)


@functools.cache
def missing() -> str | None:
    """Why this torch cannot pack weights; None if it can."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN (torch.backends.mkldnn)"
    try:
        _ = pack_onednn_op(), run_onednn_op(), run_onednn_binary_op()
    except AttributeError as error:
        return f"torch {torch.__version__} has no {error}; install torch 2.11 to 2.15"
    failed: list[str | None] = []
    # In a thread of its own: who asks may be in the middle of tracing, and torch's modes belong to a thread.
    thread = threading.Thread(target=lambda: failed.append(_tried()), name="djinn tries packing")
    thread.start()
    thread.join()
    return failed[0]


def _tried() -> str | None:
    """Why a small product with a packed weight does not come out right; None if it does."""
    weight, x = torch.eye(16) * 2, torch.ones(3, 16)
    try:
        with torch.no_grad():
            found = run_onednn_op()(x, pack_onednn_op()(weight, 3), None, "none", [], "")
        why = "its answer is wrong" if not torch.equal(found, x * 2) else None
    except Exception as error:  # noqa: BLE001  (private kernels: what moved is told by the capability)
        why = useful_line(error)
    return f"torch {torch.__version__} does not run a small packed product ({why}); 2.11 to 2.15 do" if why else None


@functools.cache
def has_mkl() -> bool:
    """Whether MKL's packed product is there."""
    ops = torch.ops.mkl
    return (
        torch.backends.mkl.is_available() and hasattr(ops, "_mkl_linear") and hasattr(ops, "_mkl_reorder_linear_weight")
    )


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN's inner product takes this type on this processor."""
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype in ONEDNN_TYPES


def pack_onednn_op() -> Callable[..., Tensor]:
    """(weight [n, k], rows expected) → packed weight."""
    return _callable(torch.ops.mkldnn._reorder_linear_weight.default)


def run_onednn_op() -> Callable[..., Tensor]:
    """(x, packed, bias, attribute, scalars, algorithm) → [..., n]."""
    return _callable(torch.ops.mkldnn._linear_pointwise.default)


def run_onednn_binary_op() -> Callable[..., Tensor]:
    """(x, other, packed, bias, attribute) → [..., n]."""
    return _callable(torch.ops.mkldnn._linear_pointwise.binary)


def pack_mkl_op() -> Callable[..., Tensor]:
    """(weight [n, k], rows) → packed weight."""
    return _callable(torch.ops.mkl._mkl_reorder_linear_weight.default)


def make_room_for_mkl() -> None:
    """Have free memory hold nothing from earlier, before weights are packed for MKL.

    MKL asks for 5 to 20 MB more than it writes to, for each weight. Where that was in use before, all of it stays the
    process's: 2.4 times the weights for products of 0.5 to 3 MB.
    """
    procfs.give_back()
    freed.give_back_own()


def run_mkl_op() -> Callable[..., Tensor]:
    """(x, packed, weight [n, k], bias, rows packed for) → [..., n]; with other rows it is torch's linear."""
    return _callable(torch.ops.mkl._mkl_linear.default)


def _callable(op: Any) -> Callable[..., Any]:
    """An operator as what calls it with the least in between: 0.2 to 2.5 microseconds less a call."""
    found: Callable[..., Any] = getattr(op, "_op", op)
    return found


def pack_convolution(
    weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int, x: list[int]
) -> Tensor:
    """A convolution's weight packed for inputs of the sizes ``x``."""
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, x)
    return packed


def fused_convolution(after: str) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """oneDNN's convolution for what follows: called with x (and the other operand), the packed weight, the bias,
    padding, stride, dilation and groups, and then these."""
    if after.startswith("add"):
        relu = "relu" if after == "add_relu" else None
        return _callable(torch.ops.mkldnn._convolution_pointwise.binary), ("add", 1.0, relu, [], "")
    _, name, algorithm = UNARY.get(after, (None, "none", ""))
    return _callable(torch.ops.mkldnn._convolution_pointwise.default), (name, [], algorithm)


@contextlib.contextmanager
def real_values() -> Iterator[None]:
    """Ops compute, without gradients and casts, also where a graph is being traced with fake tensors."""
    from torch._dispatch.python import no_python_dispatcher
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes(), no_python_dispatcher(), torch.no_grad(), torch._C._DisableAutocast():
        yield


def plain_callable(op: Any) -> Callable[..., Any]:
    """Any operator overload as what calls it with the least in between."""
    return _callable(op)
