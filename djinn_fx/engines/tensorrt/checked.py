"""The first-run check: an engine's first answer is compared with eager's before any of its answers is used.

A plan can be built, load and run, and still be wrong: a converter's mistake, a kernel's, a damaged file that loads all
the same. So the first call of a session runs both: the region's own code, whose results are returned, and the plan,
whose results are compared with them. From the second call on the plan runs alone. Wrong numbers never leave.

How far two right answers may differ is set by the element type. With ``e`` eager's values and ``p`` the plan's:

    type                 relative error |p - e| / |e| (as vectors)    largest |p - e|, as a share of the largest |e|
    float32, float64     1e-3                                         1e-2
    float32 with TF32    5e-3                                         5e-2      (where eager itself may use it)
    float16              1e-2                                         5e-2
    bfloat16             3e-2                                         1e-1
    whole, bool          0                                            0

The vector bound catches what is wrong as a whole, the other what is wrong in one place. Both are far above what another
order of summation does to a layer, and far below what a wrong operation does. Infinite and undefined values must stand
where eager's do; an answer of nothing but zeros is wrong unless eager's is (a plan that did not run leaves them).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from djinn_fx.engines.base import RegionCallable
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind

log = logging.getLogger("djinn_fx.engines.tensorrt")

#: By type: relative error of the whole, and of the worst element as a share of the largest.
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-3, 1e-2),
    torch.float32: (1e-3, 1e-2),
    torch.float16: (1e-2, 5e-2),
    torch.bfloat16: (3e-2, 1e-1),
}
#: For float32 on a GPU where torch may use TF32, as it does by default for convolutions.
_TF32 = (5e-3, 5e-2)


class Checkable(Protocol):
    """A region's callable that is not trusted yet. Regions that share it share its verdict."""

    mutated: tuple[int, ...]
    accepts: Callable[[Sequence[Any]], bool] | None
    verdict: bool | None

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run; on an ``EngineError`` the arguments are as they were."""
        ...


class Checked:
    """A callable that becomes the plan's once its first answer was right, and stays eager's if it was wrong.

    Args:
        run: the plan's callable.
        reference: the region's own code.
        dropped: told why, once, if the plan is not to be used any more.
        label: of the region, for messages.

    Attributes:
        accepts: as the plan's; what it does not accept goes to ``reference`` here too, so asking is an option.
    """

    def __init__(
        self, run: Checkable, reference: RegionCallable, dropped: Callable[[Reason], None], *, label: str = ""
    ) -> None:
        self._run, self._reference, self._dropped, self._label = run, reference, dropped, label
        self._lock = threading.Lock()
        self._told = False
        self.accepts = run.accepts

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the region: by the plan if it is trusted and takes these arguments, else eagerly. Empties the list."""
        run = self._run
        if run.verdict is False or (run.accepts is not None and not run.accepts(args)):
            return self._reference(args)
        if run.verdict is None:
            # Nothing can be compared while a CUDA graph is captured; the next call that is none will do it.
            return self._reference(args) if _capturing() else self._first(args)
        try:
            return run(args)
        except EngineError as error:
            self._drop(str(error))
            return self._reference(args)

    def _first(self, args: list[Any]) -> Sequence[Any]:
        trial = list(args)
        written = {place: args[place] for place in self._run.mutated}
        with self._lock:  # one thread tries; the memory of two trials at once would be for nothing
            if self._run.verdict is not None:
                return self(args)
            try:
                for place, tensor in written.items():
                    trial[place] = tensor.clone()
                copies = {place: trial[place] for place in written}
                found = self._run(trial)
            except (EngineError, torch.OutOfMemoryError) as error:
                self._drop(str(error))
                return self._reference(args)
            expected = self._reference(args)
            wrong = difference(found, expected) or _first_difference(
                (f"argument {place}", copies[place], tensor) for place, tensor in written.items()
            )
            if wrong is None:
                self._run.verdict = True
                log.info("region %s: the plan's first answer is eager's", self._label)
            else:
                self._drop(f"{self._label}: run: the plan's first answer is not eager's: {wrong}")
            return expected

    def _drop(self, why: str) -> None:
        self._run.verdict = False
        if not self._told:
            self._told = True
            self._dropped(Reason(kind=ReasonKind.FALLBACK, detail=f"tensorrt: {why}", node=self._label))


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def difference(found: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """In what an answer differs from eager's by more than two right answers may; None if in nothing."""
    if len(found) != len(expected):
        return f"{len(found)} results, not {len(expected)}"
    return _first_difference(
        (f"result {place}", one, other) for place, (one, other) in enumerate(zip(found, expected, strict=True))
    )


def _first_difference(pairs: Any) -> str | None:
    for what, found, expected in pairs:
        problem = _compare(found, expected)
        if problem is not None:
            return f"{what} {problem}"
    return None


def _compare(found: Any, expected: Any) -> str | None:
    if not isinstance(expected, torch.Tensor):
        return None if type(found) is type(expected) and found == expected else f"is {found!r}, not {expected!r}"
    if not isinstance(found, torch.Tensor):
        return f"is {type(found).__name__}, not a tensor"
    if (found.shape, found.dtype, found.device) != (expected.shape, expected.dtype, expected.device):
        return f"is {_form(found)}, not {_form(expected)}"
    if not expected.numel():
        return None
    if _layout(found) != _layout(expected):
        return f"has strides {found.stride()}, not {expected.stride()}"
    if expected.dtype not in TOLERANCES:
        differing = int((found != expected).sum())
        return f"differs in {differing} of {expected.numel()} elements" if differing else None
    return _compare_floats(found, expected)


def _compare_floats(found: torch.Tensor, expected: torch.Tensor) -> str | None:
    whole, worst = _tolerance(expected)
    for name, test in (("undefined", torch.isnan), ("infinite", torch.isposinf), ("infinite", torch.isneginf)):
        if not torch.equal(test(found), test(expected)):
            return f"has {int(test(found).sum())} {name} elements, or in other places, not {int(test(expected).sum())}"
    finite = expected.isfinite()
    wide = torch.float64 if expected.dtype is torch.float64 else torch.float32
    p, e = found.to(wide).where(finite, 0.0), expected.to(wide).where(finite, 0.0)
    largest = float(e.abs().max())
    if largest == 0.0:
        off = float(p.abs().max())
        return f"reaches {off:.3g} where eager's is zero throughout" if off > worst * 1e-3 else None
    if not p.any():
        return "is zero throughout"
    gap = p - e
    share, relative = float(gap.abs().max()) / largest, float(gap.norm() / e.norm())
    if relative > whole or share > worst:
        return (
            f"has a relative error of {relative:.2g} (allowed: {whole:g}), "
            f"at worst {share:.2g} of the largest value (allowed: {worst:g})"
        )
    return None


def may_round(switch: Any) -> bool:
    """Whether torch may use TF32 where a backend's switch says so.

    Args:
        switch: ``torch.backends.cuda.matmul`` or ``torch.backends.cudnn``.
    """
    try:
        return bool(switch.allow_tf32)
    except RuntimeError:  # torch refuses to be asked so once ``fp32_precision`` was set
        return str(getattr(switch, "fp32_precision", "")) == "tf32"


def _tolerance(expected: torch.Tensor) -> tuple[float, float]:
    single = expected.dtype is torch.float32 and expected.device.type == "cuda"
    if single and (may_round(torch.backends.cudnn) or may_round(torch.backends.cuda.matmul)):
        return _TF32
    return TOLERANCES[expected.dtype]


def _layout(tensor: torch.Tensor) -> tuple[int, ...]:
    """Strides, as far as they say anything: a dimension of one element has none."""
    return tuple(stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
