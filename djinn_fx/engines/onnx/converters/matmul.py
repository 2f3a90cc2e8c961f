"""Products of matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import for_products
from djinn_fx.engines.onnx.graph import GraphBuilder, Number, Refused, Value
from djinn_fx.engines.onnx.kernels import arithmetic, broadcast
from djinn_fx.engines.onnx.registry import converts, sizes_of
from djinn_fx.srg.lower import target_name

_TRANSPOSES = {"aten.t.default": None, "aten.permute.default": ([1, 0],), "aten.transpose.int": (0, 1)}


def _inner(b: GraphBuilder, dtype: torch.dtype) -> torch.dtype:
    """The type to multiply in: half types go by way of float32, as torch's own kernels add up."""
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    if dtype in (torch.float32, torch.float64):
        return dtype
    if dtype in (torch.int32, torch.int64) and b.flavour == "onnxruntime":
        return dtype
    raise Refused(f"no kernel multiplies matrices of {str(dtype).removeprefix('torch.')}")


def _untransposed(b: GraphBuilder, given: Any) -> Value | None:
    """What a 2-D argument is the transpose of, if it is one: the product then reads it as it lies."""
    if not isinstance(given, Node) or given.op != "call_function":
        return None
    name = target_name(given.target)
    if name not in _TRANSPOSES or not isinstance(given.args[0], Node):
        return None
    dims = tuple(given.args[1:])
    source = b.value_of(given.args[0])
    if not isinstance(source, Value) or source.rank != 2:
        return None
    wanted = _TRANSPOSES[name]
    if wanted is not None and dims not in (wanted, (1, 0) if name == "aten.transpose.int" else wanted):
        return None
    return source


def product(
    b: GraphBuilder, x: Value, y: Value, y_node: Any, bias: Value | None = None, alpha: Number = 1, beta: Number = 1
) -> Value:
    """``alpha * x @ y + beta * bias`` of matrices.

    Args:
        b: the builder.
        x: [n, k].
        y: [k, m].
        y_node: the graph's argument that is y: a weight kept as [m, k] is taken as it is.
        bias: broadcasts to [n, m].
        alpha: scales the product.
        beta: scales the bias.
    """
    dtype = x.dtype
    inner = _inner(b, dtype)
    shape = (x.shape[0], y.shape[1])
    for_products(b, x, y, bias=bias if beta != 0 else None)
    if not inner.is_floating_point:
        result = b.op("MatMul", [x, y], dtype, shape)
        if alpha != 1 or beta != 1:
            raise Refused("a scaled product of integers")
        return result if bias is None else arithmetic(b, "Add", [result, bias], dtype)
    source = _untransposed(b, y_node)
    inputs = [b.cast(x, inner), b.cast(y if source is None else source, inner)]
    flag: dict[str, Any] = {} if source is None else {"transB": 1}
    if b.flavour == "tensorrt" and inner is not dtype:
        return _rounded_product(b, inputs, shape, flag, bias if beta != 0 else None, alpha, beta, dtype)
    if alpha != 1:
        flag["alpha"] = float(alpha)
    if bias is not None and beta != 0:
        inputs.append(b.cast(bias, inner))
        if beta != 1:
            flag["beta"] = float(beta)
    return b.cast(b.op("Gemm", inputs, inner, shape, **flag), dtype)


def _rounded_product(
    b: GraphBuilder,
    inputs: list[Value],
    shape: tuple[int | None, ...],
    flag: dict[str, Any],
    bias: Value | None,
    alpha: Number,
    beta: Number,
    dtype: torch.dtype,
) -> Value:
    """A product of halves and what is added to it, for TensorRT: it takes casts around a product into its kernel, but
    not with a sum in float32 behind it.
    """
    result = b.cast(b.op("Gemm", inputs, torch.float32, shape, **flag), dtype)
    result = scaled(b, result, alpha)
    return result if bias is None else arithmetic(b, "Add", [result, scaled(b, bias, beta)], dtype)


def scaled(b: GraphBuilder, value: Value, factor: Number) -> Value:
    """Times a number, rounded once."""
    if factor == 1:
        return value
    wide = b.op("Mul", [b.cast(value, torch.float32), b.constant(float(factor), torch.float32)])
    return b.cast(wide, value.dtype)


@converts("aten.mm.default")
def mm(b: GraphBuilder, node: Node, x: Value, y: Value) -> Value:
    return product(b, x, y, node.args[1])


@converts("aten.addmm.default")
def addmm(b: GraphBuilder, node: Node, bias: Value, x: Value, y: Value, beta: Number = 1, alpha: Number = 1) -> Value:
    return product(b, x, y, node.args[2], bias, alpha, beta)


@converts("aten.linear.default")
def linear(b: GraphBuilder, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    inner = _inner(b, x.dtype)
    for_products(b, x, weight, bias=bias)
    if b.flavour == "tensorrt" and inner is not x.dtype and bias is not None:
        plain = linear(b, node, x, weight)
        return arithmetic(b, "Add", [plain, bias], x.dtype)  # type: ignore[list-item]
    if x.rank == 2:
        inputs = [b.cast(one, inner) for one in (x, weight, bias) if one is not None]
        return b.cast(b.op("Gemm", inputs, inner, (x.shape[0], weight.shape[0]), transB=1), x.dtype)
    shape = (*x.shape[:-1], weight.shape[0])
    result = b.op("MatMul", [b.cast(x, inner), b.transpose(b.cast(weight, inner), [1, 0])], inner, shape)
    return b.cast(result if bias is None else b.op("Add", [result, b.cast(bias, inner)]), x.dtype)


def matmul_values(b: GraphBuilder, x: Value, y: Value, shape: tuple[int | None, ...]) -> Value:
    """numpy's matmul, whose result has this shape."""
    for_products(b, x, y)
    inner = _inner(b, x.dtype)
    return b.cast(b.op("MatMul", [b.cast(x, inner), b.cast(y, inner)], inner, shape), x.dtype)


@converts("aten.bmm.default")
def bmm(b: GraphBuilder, node: Node, x: Value, y: Value) -> Value:
    return matmul_values(b, x, y, (x.shape[0], x.shape[1], y.shape[2]))


@converts("aten.matmul.default", "aten.mv.default", "aten.dot.default", "aten.vdot.default")
def matmul(b: GraphBuilder, node: Node, x: Value, y: Value) -> Value:
    sizes = sizes_of(b, node, x, y)
    return matmul_values(b, x, y, tuple(b.known(size) for size in sizes))


@converts("aten.baddbmm.default")
def baddbmm(b: GraphBuilder, node: Node, bias: Value, x: Value, y: Value, beta: Number = 1, alpha: Number = 1) -> Value:
    dtype = x.dtype
    result = matmul_values(b, x, y, (x.shape[0], x.shape[1], y.shape[2]))
    if alpha != 1:
        result = arithmetic(b, "Mul", [result, b.constant(alpha, dtype)], dtype)
    if beta == 0:
        return result
    added = bias if beta == 1 else arithmetic(b, "Mul", [bias, b.constant(beta, dtype)], dtype)
    assert len(broadcast(result, added)) == 3
    return arithmetic(b, "Add", [result, added], dtype)
