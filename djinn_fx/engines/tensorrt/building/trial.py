"""Whether an installed TensorRT can be called as this package calls it: a small model with a constant is read.

Read, not built: that takes a second and memory, and happens in a child process, which tells what fails.
"""

from __future__ import annotations

import functools
import importlib

from djinn_fx.engines.tensorrt.building.messages import logger
from djinn_fx.engines.tensorrt.building.parse_onnx import parse
from djinn_fx.errors import useful_line

#: The releases that the tests were run with.
TRIED = {"tensorrt_rtx": "1.7.1"}


@functools.cache
def problem(name: str) -> str:
    """Why the library of that name does not take a small model; "" if it does."""
    trt = importlib.import_module(name)
    try:
        parse(trt, _model(), trt.Builder(logger(trt)))
    except ImportError as error:
        return f"models are made with the package onnx ({error}): pip install 'djinn-fx[tensorrt]' installs it"
    except Exception as error:  # noqa: BLE001  (whatever a library that moved makes of our calls: it is told)
        tried = f"; tried was {TRIED[name]}: pip install 'djinn-fx[tensorrt]' installs it" if name in TRIED else ""
        return f"{name} {trt.__version__} does not take a small model ({useful_line(error)}){tried}"
    return ""


def _model() -> bytes:
    import onnx

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    value = [helper.make_tensor_value_info(one, kind, [3]) for one in ("p0", "out0")]
    constant = helper.make_tensor("c0", kind, [3], [1.0, 2.0, 3.0])
    node = helper.make_node("Add", ["p0", "c0"], ["out0"])
    graph = helper.make_graph([node], "region", value[:1], value[1:], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return bytes(model.SerializeToString())
