"""Converters, by kind of op; importing this package fills the support table."""

import djinn_fx.engines.tensorrt.converters.attention
import djinn_fx.engines.tensorrt.converters.convolution
import djinn_fx.engines.tensorrt.converters.creation
import djinn_fx.engines.tensorrt.converters.elementwise
import djinn_fx.engines.tensorrt.converters.indexing
import djinn_fx.engines.tensorrt.converters.matmul
import djinn_fx.engines.tensorrt.converters.normalization
import djinn_fx.engines.tensorrt.converters.reduce
import djinn_fx.engines.tensorrt.converters.shapes
import djinn_fx.engines.tensorrt.converters.unary  # noqa: F401
