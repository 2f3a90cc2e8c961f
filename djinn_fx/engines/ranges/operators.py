"""What ATen's operators do to intervals of whole numbers: a rule for each, by qualified name without the overload.

A rule is given :class:`Numbers` and the node's own arguments, and returns the slot of its result, or None where it
knows nothing. An op with several results has a rule for the first (``aten.sort#0``) and one for the others
(``aten.sort#1``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch


class Numbers(Protocol):
    """What a rule may ask.

    Attributes:
        fake: the result, as torch says it is.
    """

    fake: torch.Tensor

    def slot(self, given: Any) -> int:
        """Where the interval of an argument is.

        Raises:
            Refused: it holds no whole numbers.
        """
        ...

    def add(self, rule: str, slots: Sequence[int], numbers: Sequence[Any] = ()) -> int:
        """A new interval, by a rule of ``intervals.py``."""
        ...

    def sizes(self, given: Any) -> Sequence[Any]:
        """The sizes of an argument."""
        ...


TABLE: dict[str, Callable[..., int | None]] = {}


def _rule(*names: str) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    def enter(function: Callable[..., int | None]) -> Callable[..., int | None]:
        for name in names:
            for one in name.split():
                TABLE[one if "." in one else f"aten.{one}"] = function
        return function

    return enter


def _count(sizes: Sequence[Any], dims: Any = None) -> Any:
    """The product of these sizes (all, if there are no dimensions)."""
    chosen = range(len(sizes)) if dims in (None, [], ()) else [dims] if isinstance(dims, int) else dims
    count: Any = 1
    for dim in chosen:
        count = count * sizes[dim]
    return count


@_rule(
    """view reshape _unsafe_view expand permute transpose t squeeze unsqueeze slice select clone alias detach contiguous
    lift_fresh lift_fresh_copy flip roll repeat unfold diagonal narrow gather index _unsafe_index index_select take
    amax amin median mode repeat_interleave movedim rot90 ceil floor round trunc positive
    topk#0 sort#0 max#0 min#0 cummax#0 cummin#0 kthvalue#0 median#0 mode#0 split#0 split#1 split_with_sizes#0
    split_with_sizes#1 chunk#0 chunk#1 unbind#0 unbind#1 unsafe_split#0 unsafe_split#1 view_copy expand_copy
    aminmax#0 aminmax#1 pixel_shuffle channel_shuffle max_pool2d_with_indices#0 prims.view_of embedding""",
    "_to_copy to prims.convert_element_type",  # of floating-point numbers nothing is known
)
def _same(n: Numbers, x: Any, *_: Any, **__: Any) -> int:
    return n.slot(x)


def _union(n: Numbers, *given: Any) -> int:
    return n.add("any_of", [n.slot(one) for one in given])


@_rule("copy fill")
def _second(n: Numbers, _: Any, value: Any, *__: Any, **___: Any) -> int:
    return n.slot(value)


@_rule("cat stack concatenate")
def _joined(n: Numbers, parts: Sequence[Any], *_: Any, **__: Any) -> int:
    return _union(n, *parts)


@_rule("where")
def _where(n: Numbers, _: Any, x: Any, y: Any) -> int:
    return _union(n, x, y)


@_rule("masked_fill masked_scatter")
def _masked_fill(n: Numbers, x: Any, _: Any, value: Any) -> int:
    return _union(n, x, value)


@_rule("index_fill")
def _index_fill(n: Numbers, x: Any, _: int, __: Any, value: Any) -> int:
    return _union(n, x, value)


@_rule("slice_scatter select_scatter diagonal_scatter")
def _part_replaced(n: Numbers, x: Any, source: Any, *_: Any, **__: Any) -> int:
    return _union(n, x, source)


@_rule("scatter index_copy")
def _scatter(n: Numbers, x: Any, _: int, __: Any, source: Any, *, reduce: str | None = None) -> int | None:
    return _union(n, x, source) if reduce is None else None


@_rule("index_put _unsafe_index_put put")
def _index_put(n: Numbers, x: Any, _: Any, source: Any, accumulate: bool = False, *__: Any) -> int:
    if accumulate:
        return _gathered(n, x, source)
    return _union(n, x, source)


@_rule("scatter_add index_add")
def _scatter_add(n: Numbers, x: Any, _: int, __: Any, source: Any, *, alpha: int = 1) -> int | None:
    return _gathered(n, x, source) if alpha == 1 else None


def _gathered(n: Numbers, x: Any, source: Any) -> int:
    """To each element some of the others are added."""
    count = _count(n.sizes(source)) if hasattr(source, "meta") else _count(tuple(n.fake.shape))
    return n.add("add", [n.slot(x), n.add("running", [n.slot(source)], [count])], [1])


@_rule("constant_pad_nd")
def _pad(n: Numbers, x: Any, _: Any, value: Any = 0) -> int:
    return _union(n, x, int(value))


@_rule("tril triu")
def _triangle(n: Numbers, x: Any, *_: Any) -> int:
    return _union(n, x, 0)


# Made from nothing


@_rule("arange")
def _arange(n: Numbers, *given: Any, **_: Any) -> int | None:
    if not all(type(one) is int or isinstance(one, torch.SymInt) or hasattr(one, "meta") for one in given):
        return None
    start, end, step = (0, *given, 1) if len(given) == 1 else (*given, 1)[:3]
    return n.add("arange", (), [_plain(start), _plain(end), _plain(step)])


@_rule("prims.iota")
def _iota(n: Numbers, length: Any, *, start: Any, step: Any, **_: Any) -> int:
    first, by = _plain(start), _plain(step)
    return n.add("arange", (), [first, first + _plain(length) * by, by])


def _plain(given: Any) -> Any:
    """A number, or the symbolic size that a node is."""
    return given.meta["val"] if hasattr(given, "meta") else given


@_rule("full new_full full_like")
def _full(n: Numbers, _: Any, first: Any, second: Any = None, **__: Any) -> int:
    return n.slot(first if second is None else second)


@_rule("scalar_tensor")
def _scalar(n: Numbers, value: Any, **_: Any) -> int:
    return n.slot(value)


@_rule("zeros new_zeros zeros_like")
def _zeros(n: Numbers, *_: Any, **__: Any) -> int:
    return n.add("number", (), [0, 0])


@_rule("ones new_ones ones_like")
def _ones(n: Numbers, *_: Any, **__: Any) -> int:
    return n.add("number", (), [1, 1])


@_rule("tril_indices triu_indices")
def _triangle_places(n: Numbers, row: Any, col: Any, *_: Any, **__: Any) -> int:
    return n.add("any_of", [n.add("below", (), [row]), n.add("below", (), [col])])


@_rule("eye")
def _eye(n: Numbers, *_: Any, **__: Any) -> int:
    return n.add("number", (), [0, 1])


# Places


@_rule("argmax argmin")
def _place(n: Numbers, x: Any, dim: Any = None, *_: Any) -> int:
    return n.add("below", (), [_count(n.sizes(x), dim)])


@_rule("topk#1")
def _topk(n: Numbers, x: Any, _: Any, dim: int = -1, *__: Any, **___: Any) -> int:
    return n.add("below", (), [_count(n.sizes(x), dim)])


@_rule("sort#1 argsort max#1 min#1 cummax#1 cummin#1 mode#1 median#1")
def _places(n: Numbers, x: Any, dim: Any = -1, *_: Any, stable: bool | None = None, **rest: Any) -> int:
    if isinstance(dim, bool) or dim is None:
        dim = rest.get("dim", -1)
    sizes = n.sizes(x)
    return n.add("below", (), [_count(sizes, dim) if sizes else 1])


@_rule("kthvalue#1")
def _kth(n: Numbers, x: Any, _: int, dim: int = -1, *__: Any) -> int:
    return n.add("below", (), [_count(n.sizes(x), dim)])


@_rule(
    """max_pool2d_with_indices#1 max_pool3d_with_indices#1 adaptive_max_pool2d#1 adaptive_max_pool3d#1
    fractional_max_pool2d#1"""
)
def _pooled(n: Numbers, x: Any, *_: Any, **__: Any) -> int:
    return n.add("below", (), [_count(n.sizes(x)[1:])])


@_rule("searchsorted")
def _searched(n: Numbers, x: Any, *_: Any, **__: Any) -> int:
    return n.add("number", (), [0, _count(n.sizes(x), -1)])


@_rule("bucketize")
def _bucket(n: Numbers, _: Any, boundaries: Any, **__: Any) -> int:
    return n.add("number", (), [0, _count(n.sizes(boundaries), -1)])


@_rule("count_nonzero")
def _counted(n: Numbers, x: Any, dim: Any = None) -> int:
    return n.add("number", (), [0, _count(n.sizes(x), dim)])


# Reckoning


@_rule("add")
def _add(n: Numbers, x: Any, y: Any, alpha: Any = 1) -> int | None:
    return n.add("add", [n.slot(x), n.slot(y)], [_plain(alpha)])


@_rule("sub")
def _sub(n: Numbers, x: Any, y: Any, alpha: Any = 1) -> int | None:
    return n.add("add", [n.slot(x), n.slot(y)], [-_plain(alpha)])


@_rule("rsub")
def _rsub(n: Numbers, x: Any, y: Any, alpha: Any = 1) -> int | None:
    return n.add("add", [n.slot(y), n.slot(x)], [-_plain(alpha)])


@_rule("neg")
def _neg(n: Numbers, x: Any) -> int:
    return n.add("scaled", [n.slot(x)], [-1])


@_rule("square")
def _square(n: Numbers, x: Any) -> int:
    return n.add("mul", [n.slot(x), n.slot(x)])


def _binary(rule: str, *names: str) -> None:
    @_rule(*names)
    def apply(n: Numbers, x: Any, y: Any, *_: Any, **__: Any) -> int:
        return n.add(rule, [n.slot(x), n.slot(y)])


def _unary(rule: str, *names: str) -> None:
    @_rule(*names)
    def apply(n: Numbers, x: Any, *_: Any, **__: Any) -> int:
        return n.add(rule, [n.slot(x)])


_binary("mul", "mul")
_binary("minimum", "minimum fmin")
_binary("maximum", "maximum fmax")
_binary("quotient", "floor_divide div")
_binary("remainder", "remainder")
_binary("fmod", "fmod")
_binary("bits", "bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__")
_binary("left", "bitwise_left_shift __lshift__")
_binary("right", "bitwise_right_shift __rshift__")
_binary("power", "pow")
_unary("absolute", "abs")
_unary("inverted", "bitwise_not")
_unary("sign", "sign sgn")


@_rule("max min")
def _extreme(n: Numbers, x: Any, other: Any = None, *_: Any) -> int:
    return _union(n, x, other) if hasattr(other, "meta") else n.slot(x)


@_rule("relu")
def _relu(n: Numbers, x: Any) -> int:
    return n.add("maximum", [n.slot(x), n.slot(0)])


@_rule("clamp_min")
def _clamp_min(n: Numbers, x: Any, least: Any) -> int:
    return n.add("maximum", [n.slot(x), n.slot(least)])


@_rule("clamp_max")
def _clamp_max(n: Numbers, x: Any, most: Any) -> int:
    return n.add("minimum", [n.slot(x), n.slot(most)])


@_rule("clamp")
def _clamp(n: Numbers, x: Any, min: Any = None, max: Any = None) -> int:
    slot = n.slot(x)
    slot = slot if min is None else n.add("maximum", [slot, n.slot(min)])
    return slot if max is None else n.add("minimum", [slot, n.slot(max)])


@_rule("sum")
def _sum(n: Numbers, x: Any, dim: Any = None, *_: Any, **__: Any) -> int:
    return n.add("total", [n.slot(x)], [_count(n.sizes(x), dim)])


@_rule("cumsum")
def _cumsum(n: Numbers, x: Any, dim: int, **_: Any) -> int:
    return n.add("running", [n.slot(x)], [_count(n.sizes(x), dim) if n.sizes(x) else 1])


@_rule("prod")
def _prod(n: Numbers, x: Any, dim: Any = None, *_: Any, **__: Any) -> int:
    return n.add("product", [n.slot(x)], [_count(n.sizes(x), dim)])


@_rule("cumprod")
def _cumprod(n: Numbers, x: Any, dim: int, **_: Any) -> int:
    return n.add("product", [n.slot(x)], [_count(n.sizes(x), dim) if n.sizes(x) else 1])
