"""What OpenVINO rewrites so that numbers come out otherwise than torch's, and how it is told not to.

Its passes look at marks on nodes ("runtime info"), of which there is no public list; each of these was tried with
OpenVINO 2026.4 on the CPU, and tests see to it that they still work:

- A quotient becomes a product with the reciprocal, which is infinite or 0 for divisors near the ends of float32.
- Two sums or products with constants become one, as if float32 had no ends: ``x * 1e-30 * 1e30``.
- A product with one number becomes ``x * number + 0``, and so 0 of -0; a sum with 0 is left out, and so is -0 of -0.
- Without kernels made for a model (on one thread) a difference becomes ``x + (-1 * y + 0)``, and so 0 of -0, and a
  maximum that is done as one with what is before it loses NaN.
- The size of what was joined (``Concat``) becomes what joins sizes, for all who read it: wrong (2026.4).
- A rounding to a half type and back is dropped, as halves are computed in float32. Of this one the mark cannot be set
  from Python, only read from a model in OpenVINO's own form: so the node is taken out of such a model.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from djinn_fx.engines.optional import optional

openvino = optional("openvino")
opset13 = optional("openvino.opset13")

_KEEP_DIVISION = "nonconvertable_divide_0"
_KEEP_CONSTANT = "DisableConstantFolding_0"
_KEEP_DIFFERENCE = "dequantization_node_0"
_LINEAR = ("Add", "Subtract", "Multiply", "Divide")
#: Factors between these ends, and all they make with each other, do not leave float32.
_LEAST, _MOST = 1e-12, 1e12
#: What of a zero's sign nothing is seen in: numbers are added up to it, or it makes no difference.
_ABSORBING = frozenset(
    """
    MatMul Softmax ScaledDotProductAttention Convolution GroupConvolution MVN ReduceSum ReduceMean ReduceL2 Exp Sigmoid
    Cos Abs Less LessEqual Greater GreaterEqual Equal NotEqual
    """.split()
)

_PRODUCTS = frozenset("MatMul Convolution GroupConvolution ConvolutionBackpropData".split())
#: Of which no kernel goes on with a maximum.
_APART = _PRODUCTS | frozenset("Parameter Constant Reshape Transpose Concat StridedSlice Gather MVN MaxPool".split())

_ROUNDING = """<?xml version="1.0"?><net name="rounding" version="11"><layers>
<layer id="0" name="from" type="Parameter" version="opset1"><data shape="" element_type="f32"/>
<output><port id="0" precision="FP32"/></output></layer>
<layer id="1" name="rounded" type="Convert" version="opset1"><data destination_type="{kind}"/>
<rt_info><attribute name="DisablePrecisionConversion" version="0" value="{kind}:f32"/></rt_info>
<input><port id="0" precision="FP32"/></input><output><port id="1" precision="{port}"/></output></layer>
<layer id="2" name="to" type="Result" version="opset1"><input><port id="0" precision="{port}"/></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


def keep_exact(graph: Any, *, snippets: bool = True) -> None:
    """Mark what OpenVINO must not rewrite in a model that is about to be compiled.

    Args:
        graph: the model; changed.
        snippets: whether it is compiled with kernels made for it. Without them some operations are done otherwise.
    """
    ordered = graph.get_ordered_ops()
    seen = _seen(ordered)
    for node in ordered:
        kind = node.get_type_name()
        if kind == "Negative" and node.get_friendly_name() in seen and not _is_joined(node):
            _negate(node)
        if kind == "Abs" and node.input_value(0).get_node().get_type_name() == "Concat":
            _hold_apart(node)
        if kind == "Maximum" and not snippets and _is_real(node) and _is_elementwise(node.input_value(1).get_node()):
            _choose(node)
        if kind not in _LINEAR or not _is_real(node):
            continue
        if kind == "Subtract" and not snippets and node.get_friendly_name() in seen and not _holds_constant(node):
            node.get_rt_info()[_KEEP_DIFFERENCE] = 1
        if kind == "Divide" and not _is_harmless_division(node):
            node.get_rt_info()[_KEEP_DIVISION] = 1
        if _follows_constant(node) or (node.get_friendly_name() in seen and _loses_sign(node)):
            _hide_constant(node)


def _seen(ordered: Any) -> set[str]:
    """The nodes of whose zeros the sign may be seen in a result."""
    seen: set[str] = set()
    for node in reversed(ordered):
        readers = [one.get_node() for output in node.outputs() for one in output.get_target_inputs()]
        shown = (one.get_friendly_name() in seen and one.get_type_name() not in _ABSORBING for one in readers)
        if node.get_type_name() == "Result" or any(shown):
            seen.add(node.get_friendly_name())
    return seen


def _loses_sign(node: Any) -> bool:
    """A product or quotient with one number other than 1, or a sum with 0.

    But of those with -1 that are joined to something: as such it knows a rotary embedding.
    """
    for place in (0, 1):
        numbers = _constant(node, place)
        if numbers is None or (node.get_type_name() == "Divide" and place == 0):
            continue
        if node.get_type_name() in ("Add", "Subtract"):
            return bool(np.all(numbers == 0))
        return numbers.size == 1 and numbers.item() != 1 and not (numbers.item() == -1 and _is_joined(node))
    return False


def _is_joined(node: Any) -> bool:
    return {one.get_node().get_type_name() for one in node.output(0).get_target_inputs()} == {"Concat"}


def _negate(node: Any) -> None:
    """By a product, of which it is not known that it is one with -1."""
    if node.get_output_element_type(0).get_type_name() != "f32":
        return
    product = opset13.multiply(node.input_value(0), _hidden(np.array(-1, np.float32)))
    product.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(product.output(0))


def _is_elementwise(node: Any) -> bool:
    """Whether a node may be done as one with the maximum that follows; products, and what belongs to them, may not."""
    kind = node.get_type_name()
    if kind == "BatchNormInference" or (kind in _LINEAR and _holds_constant(node)):
        before = [one.get_node() for one in node.input_values() if one.get_node().get_type_name() != "Constant"]
        return not before or before[0].get_type_name() not in _PRODUCTS
    return kind not in _APART


def _choose(node: Any) -> None:
    """A maximum of 0 and something, written so that NaN stays."""
    zero, value = node.input_value(0), node.input_value(1)
    chosen = opset13.select(opset13.less(value, zero), zero, value)
    chosen.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(chosen.output(0))


def _hold_apart(node: Any) -> None:
    """Put a product with one, of which it is not known that it is that, before a node."""
    source = node.input_value(0)
    one = _hidden(np.array(1)).output(0)
    node.input(0).replace_source_output(opset13.multiply(source, opset13.convert_like(one, source)).output(0))


def _hidden(numbers: Any) -> Any:
    same = opset13.squeeze(opset13.constant(numbers[None]), np.array([0]))
    same.get_rt_info()[_KEEP_CONSTANT] = 1
    return same


def rounded(value: Any, kind: str) -> Any:
    """A float32 output rounded to ``"f16"`` or ``"bf16"``, for certain.

    Args:
        value: an output of a node.
        kind: OpenVINO's name of the type.

    Returns:
        The output of that type.
    """
    text = _ROUNDING.format(kind=kind, port={"f16": "FP16", "bf16": "BF16"}[kind])
    model = _reader().read_model(text.encode())
    node = next(one for one in model.get_ops() if one.get_friendly_name() == "rounded")
    node.input(0).replace_source_output(value)
    node.validate_and_infer_types()
    node.set_friendly_name(f"{value.get_node().get_friendly_name()}/rounded/{kind}")
    return node.output(0)


@functools.cache
def _reader() -> Any:
    return openvino.Core()


def _is_real(node: Any) -> bool:
    return bool(node.get_output_element_type(0).is_real())


def _constant(node: Any, place: int) -> Any:
    """The numbers of an operand that is a constant, of large ones None; None of what is no constant."""
    source = node.input_value(place).get_node()
    if source.get_type_name() != "Constant":
        return None
    return source.get_data() if np.prod(source.get_output_shape(0)) <= 4096 else None


def _is_harmless_division(node: Any) -> bool:
    """Of one by something, which is as exact; or by numbers whose reciprocals are far from the ends."""
    above, below = _constant(node, 0), _constant(node, 1)
    if above is not None and bool(np.all(above == 1)):
        return True
    size = None if below is None else np.abs(below.astype(np.float64))
    return size is not None and bool(np.all((size > _LEAST) & (size < _MOST)))


def _holds_constant(node: Any) -> bool:
    return any(node.input_value(place).get_node().get_type_name() == "Constant" for place in (0, 1))


def _follows_constant(node: Any) -> bool:
    """Whether both it and the one before it have a constant operand, and doing them as one may differ."""
    places = [place for place in (0, 1) if node.input_value(place).get_node().get_type_name() == "Constant"]
    if len(places) != 1:
        return False
    before = node.input_value(1 - places[0]).get_node()
    if before.get_type_name() not in _LINEAR or not _holds_constant(before):
        return False
    factors = all(one.get_type_name() in ("Multiply", "Divide") for one in (node, before))
    return not (factors and _is_middling(node) and _is_middling(before))


def _is_middling(node: Any) -> bool:
    for place in (0, 1):
        found = _constant(node, place)
        if found is not None:
            size = np.abs(found.astype(np.float64))
            return bool(np.all((size > _LEAST) & (size < _MOST)))
    return False


def _hide_constant(node: Any) -> None:
    """Put a node between the constant and its reader that is not computed before the call."""
    for place in (0, 1):
        numbers = _constant(node, place)
        if numbers is not None:
            # A difference would become a sum anew.
            is_taken_away = place == 1 and node.get_type_name() == "Subtract"
            same = _hidden(-numbers if is_taken_away else numbers)
            if is_taken_away:
                total = opset13.add(node.input_value(0), same)
                total.set_friendly_name(node.get_friendly_name())
                node.output(0).replace(total.output(0))
            else:
                node.input(place).replace_source_output(same.output(0))
            return
