"""Cases of elementwise ops, norms, softmax and reductions: by size, by kind of arithmetic, by how they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from djinn_fx.calibrate.cases.case import RUNTIMES, Case
from djinn_fx.calibrate.program import CaseProgram, Results, filled, in_turn
from djinn_fx.settings.engines import EAGER

Step = Callable[[torch.Tensor], torch.Tensor]

#: Elements of one operand: from a call's own cost over each cache's size to memory that is mapped afresh.
_SIZES = (64, 4096, 32_768, 131_072, 524_288, 2_097_152, 8_388_608, 33_554_432)
#: Chains that neither grow nor fade.
_UNARY: dict[str, Step] = {
    "mul": lambda x: x * 1.0001,
    "neg": torch.neg,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": lambda x: torch.exp(-x),
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.5),
    "pow2": lambda x: torch.pow(x, 2) * 0.1 + 0.25,
    "pow3": lambda x: torch.pow(x, 3.0) * 0.01 + 0.25,
    "cos": torch.cos,
    "erf": torch.erf,
    "softplus": F.softplus,
    "hardswish": lambda x: F.hardswish(x) + 1.0,
    "leaky-relu": F.leaky_relu,
    "clamp": lambda x: torch.clamp(x, -1.0, 1.0),
}
#: Measured at every size; the others at _FEW.
_FULL = ("mul", "gelu", "silu", "tanh", "exp")
_FEW = (4096, 524_288, 8_388_608)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _unary()
    yield from _binary()
    yield from _norms()
    yield from _softmax()
    yield from _reductions()


def _unary() -> Iterator[Case]:
    for name, step in _UNARY.items():
        for size in _SIZES if name in _FULL else _FEW:
            if size > 10_000_000 and name not in ("mul", "gelu"):
                continue
            times = 8 if size < 8_000_000 else 3
            yield Case(
                name=f"{name} n={size} x{times}",
                family=f"unary-{name}",
                make=_chain(step, times, size),
                engines=RUNTIMES if name in _FULL and size in (4096, 524_288, 8_388_608) else (EAGER,),
                one_thread=name in ("mul", "gelu") and size in _FEW,
                quick=size == 524_288 or (name in ("mul", "gelu") and size in (64, 4096, 32_768, 8_388_608)),
            )


def _chain(step: Step, times: int, *shape: int) -> Callable[[], CaseProgram]:
    def make() -> CaseProgram:
        return CaseProgram(function=lambda x: in_turn(step, x, times), weights=(), inputs=(filled(*shape, scale=0.5),))

    return make


def _binary() -> Iterator[Case]:
    """Residuals, biases, masks, scales: same shapes, a row for all rows, a column for all columns, not in order."""
    for rows, width in (
        (1, 256),
        (1, 1024),
        (32, 512),
        (128, 768),
        (512, 512),
        (1024, 1024),
        (4096, 1024),
        (4096, 4096),
    ):
        for name, function in (("add", _residual), ("bias", _row), ("scale", _column), ("add-transposed", _transposed)):
            yield Case(
                name=f"{name} {rows}x{width}",
                family=f"binary-{name}",
                make=_two_operands(function, name, rows, width),
                engines=RUNTIMES if name == "add" and rows in (1, 128, 4096) else (EAGER,),
                one_thread=name == "add" and rows in (32, 4096),
                quick=(rows, width) in ((1, 256), (128, 768), (1024, 1024)),
            )
    for batch, heads, length in ((1, 8, 64), (2, 8, 256), (8, 8, 256), (8, 12, 512)):
        yield Case(
            name=f"mask b={batch} h={heads} s={length}",
            family="binary-mask",
            make=_mask(batch, heads, length),
            quick=batch < 8,
        )


def _residual(x: torch.Tensor, y: torch.Tensor) -> Results:
    return in_turn(lambda value: value + y, x, 6)


def _row(x: torch.Tensor, y: torch.Tensor) -> Results:
    return in_turn(lambda value: value * y + y, x, 3)


def _column(x: torch.Tensor, y: torch.Tensor) -> Results:
    return in_turn(lambda value: value * y, x, 6)


def _transposed(x: torch.Tensor, y: torch.Tensor) -> Results:
    return tuple(x + y.t() for _ in range(3))


def _two_operands(function: Callable[..., Results], name: str, rows: int, width: int) -> Callable[[], CaseProgram]:
    shapes = {"add": (rows, width), "bias": (width,), "scale": (rows, 1), "add-transposed": (width, rows)}

    def make() -> CaseProgram:
        scale, shift = (0.01, 1.0) if name in ("bias", "scale") else (0.01, 0.0)
        inputs = (filled(rows, width), filled(*shapes[name], scale=scale, shift=shift))
        return CaseProgram(function=function, weights=(), inputs=inputs)

    return make


def _mask(batch: int, heads: int, length: int) -> Callable[[], CaseProgram]:
    def function(scores: torch.Tensor, mask: torch.Tensor) -> Results:
        masked = scores * 0.125 + torch.where(mask, 0.0, -1e9)
        return (masked.masked_fill(mask.logical_not(), -1e9),)

    def make() -> CaseProgram:
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        return CaseProgram(function=function, weights=(), inputs=(filled(batch, heads, length, length), mask))

    return make


def _norms() -> Iterator[Case]:
    for rows, width in ((1, 256), (1, 1024), (8, 512), (32, 768), (128, 256), (512, 512), (1024, 1024), (4096, 768)):
        for name, function in (("layer-norm", _layer_norm), ("rms-norm", _rms_norm)):
            yield Case(
                name=f"{name} {rows}x{width}",
                family=name,
                make=_norm(function, rows, width),
                engines=RUNTIMES if rows in (1, 128, 1024) else (EAGER,),
                one_thread=rows in (32, 1024),
                quick=rows in (1, 32, 1024),
            )
    for batch, channels, size in ((1, 64, 56), (4, 128, 28), (1, 256, 14), (2, 512, 7), (8, 64, 112)):
        for name in ("batch-norm", "group-norm"):
            yield Case(
                name=f"{name} b={batch} c={channels} size={size}",
                family=name,
                make=_image_norm(name, batch, channels, size),
                quick=batch == 1,
            )


def _layer_norm(w: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> Results:
    return in_turn(lambda value: F.layer_norm(value, (value.shape[-1],), w, b), x, 6)


def _rms_norm(w: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> Results:
    def step(value: torch.Tensor) -> torch.Tensor:
        mean = value.pow(2).mean(-1, keepdim=True)
        return w * (value * torch.rsqrt(mean + 1e-6))

    return in_turn(step, x, 4)


def _norm(function: Callable[..., Results], rows: int, width: int) -> Callable[[], CaseProgram]:
    def make() -> CaseProgram:
        weights = (filled(width, scale=0.02, shift=1.0), filled(width, scale=0.02))
        return CaseProgram(function=function, weights=weights, inputs=(filled(1, rows, width),))

    return make


def _image_norm(name: str, batch: int, channels: int, size: int) -> Callable[[], CaseProgram]:
    def function(
        w: torch.Tensor, b: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, x: torch.Tensor
    ) -> Results:
        if name == "group-norm":
            return in_turn(lambda value: F.group_norm(value, 32, w, b), x, 3)
        return in_turn(lambda value: F.batch_norm(value, mean, variance, w, b), x, 3)

    def make() -> CaseProgram:
        near_one, near_zero = filled(channels, scale=0.02, shift=1.0), filled(channels, scale=0.02)
        weights = (near_one, near_zero, near_zero.clone(), near_one.abs())
        return CaseProgram(function=function, weights=weights, inputs=(filled(batch, channels, size, size),))

    return make


def _softmax() -> Iterator[Case]:
    shapes = (
        (1, 8, 1, 64), (8, 8, 1, 512), (1, 4, 32, 32), (1, 8, 128, 128), (8, 8, 128, 128), (1, 12, 197, 197),
        (2, 8, 512, 512), (8, 12, 512, 512), (1, 1, 1, 32000), (1, 1, 64, 32000),
    )  # fmt: skip
    for shape in shapes:
        yield Case(
            name="softmax " + "x".join(map(str, shape)),
            family="softmax",
            make=_chain(lambda x: F.softmax(x, dim=-1), 4, *shape),
            engines=RUNTIMES if shape in ((1, 8, 1, 64), (8, 8, 128, 128), (2, 8, 512, 512)) else (EAGER,),
            one_thread=shape[0] == 8,
            quick=shape[2] in (1, 128),
        )


def _reductions() -> Iterator[Case]:
    steps: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "mean-last": lambda x: x.mean(-1),
        "sum-first": lambda x: x.sum(0),
        "max-last": lambda x: x.amax(-1),
        "argmax-last": lambda x: x.argmax(-1),
        "var-last": lambda x: x.var(-1),
        "norm-last": lambda x: x.norm(dim=-1),
        "cumsum": lambda x: x.cumsum(-1),
        "sum-all": lambda x: x.sum(),
    }
    for name, step in steps.items():
        for rows, width in ((1, 256), (128, 512), (1024, 1024), (8, 32000)):
            yield Case(
                name=f"{name} {rows}x{width}",
                family=f"reduce-{name}",
                make=_several(step, 4, rows, width),
                quick=rows == 128,
            )


def _several(step: Callable[[torch.Tensor], torch.Tensor], times: int, *shape: int) -> Callable[[], CaseProgram]:
    """A step on several inputs, for steps whose result is smaller than what they read."""

    def make() -> CaseProgram:
        inputs = tuple(filled(*shape) for _ in range(times))
        return CaseProgram(function=lambda *given: tuple(step(x) for x in given), weights=(), inputs=inputs)

    return make
