"""Whether an installed TensorRT can be called as this package calls it: a small network with a constant is defined.

Defined, not built: that takes a second and memory, and happens in a child process, which tells what fails.
"""

from __future__ import annotations

import functools
import struct

from djinn_fx.engines.tensorrt.flavour import Flavour, logger
from djinn_fx.errors import useful_line

#: The releases that the tests were run with.
TRIED = {"tensorrt_rtx": "1.7.1"}


@functools.cache
def problem(name: str) -> str:
    """Why the library of that name does not take a small network; "" if it does."""
    from djinn_fx.engines.tensorrt.assemble import assemble
    from djinn_fx.engines.tensorrt.network import NetworkWriter, Tensor

    trt = Flavour(name).module
    writer = NetworkWriter()
    vector = Tensor(dtype="float32", shape=(3,))
    total = writer.one(
        "elementwise",
        (writer.input(vector), writer.constant("float32", (3,), struct.pack("<3f", 1.0, 2.0, 3.0))),
        vector,
        op="sum",
    )
    try:
        assemble(trt, writer.network((total,), {}), trt.Builder(logger(trt)))
    except Exception as error:  # noqa: BLE001  (whatever a library that moved makes of our calls: it is told)
        tried = f"; tried was {TRIED[name]}: pip install 'djinn-fx[tensorrt]' installs it" if name in TRIED else ""
        return f"{name} {trt.__version__} does not take a small network ({useful_line(error)}){tried}"
    return ""
