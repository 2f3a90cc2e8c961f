"""Cost rules of users for ops of their own.

import djinn_fx.costmodels as costmodels

@costmodels.rule(torch.ops.mylib.scaled_add)
def scaled_add(call):
    rows, columns = call.tensor(0).shape
    return costmodels.Count(kind="elementwise", vector_flops=2 * rows * columns)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

from djinn_fx.costmodels.work.call import Call, Count
from djinn_fx.costmodels.work.rules import USER_RULES, forget_facts, rule_of
from djinn_fx.costmodels.work.work import KINDS

UserRule = TypeVar("UserRule", bound=Callable[[Call], Count])

#: How often rules were added or taken away: what was counted before is then counted anew.
_changes = 0


def rule(op: Any, *, replace: bool = False) -> Callable[[UserRule], UserRule]:
    """Register the decorated function as the cost rule of an op.

    The function takes a :class:`Call` and returns a :class:`Count`. If it raises or returns something else, the op
    is unpriced and the report says why; a compile never fails of it.

    Args:
        op: ``torch.ops.mylib.op`` for all its overloads, ``torch.ops.mylib.op.default`` for one, what
            ``torch.library.custom_op`` gives, or a higher-order op.
        replace: take the place of a rule that is there, djinn-fx's own included.

    Raises:
        TypeError: ``op`` is none of these.
        ValueError: the op already has a rule; names it.
    """
    target = _target(op)

    def register(function: UserRule) -> UserRule:
        global _changes
        if not replace:
            _refuse_second(target)
        USER_RULES[target] = function
        forget_facts()
        _changes += 1
        return function

    return register


def forget_rule(op: Any) -> None:
    """Take a user's rule away again; an op without one is left as it is."""
    global _changes
    USER_RULES.pop(_target(op), None)
    forget_facts()
    _changes += 1


def changes() -> int:
    """How often rules have changed in this process."""
    return _changes


def _target(op: Any) -> Any:
    found = getattr(op, "_opoverload", op)  # what torch.library.custom_op gives
    if isinstance(found, (OpOverload, OpOverloadPacket, HigherOrderOperator)):
        return found
    raise TypeError(f"{op!r} is no op: give torch.ops.<library>.<op>, one of its overloads, or a custom op")


def _refuse_second(target: Any) -> None:
    own = USER_RULES.get(target)
    if own is not None:
        raise ValueError(f"{target} already has a cost rule: {_place(own)}; pass replace=True to take its place")
    overloads = (
        [getattr(target, name) for name in target.overloads()] if isinstance(target, OpOverloadPacket) else [target]
    )
    if any(rule_of(overload) is not None for overload in overloads):
        raise ValueError(f"{target} already has a cost rule of djinn-fx; pass replace=True to take its place")


def _place(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name} at {code.co_filename}:{code.co_firstlineno}" if code is not None else name


def checked(count: Any) -> Count:
    """What a user's rule returned, if it is what it must be.

    Raises:
        TypeError: no :class:`Count`, or a field that is no number.
        ValueError: an unknown kind, or a negative number.
    """
    if not isinstance(count, Count):
        raise TypeError(f"a cost rule returns a Count, not {type(count).__name__}")
    if count.kind not in KINDS:
        raise ValueError(f"kind {count.kind!r} is none of {', '.join(KINDS)}")
    for name in _NUMBERS:
        value = getattr(count, name)
        if value is None and name in ("read_bytes", "write_bytes"):
            continue
        if isinstance(value, (float, bool)):
            raise TypeError(f"{name} is {value!r}, not a whole number")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{name} is negative: {value}")
    return count


_NUMBERS = ("matmul_flops", "vector_flops", "special_flops", "read_bytes", "write_bytes", "gather_bytes")
