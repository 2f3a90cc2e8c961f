"""Which of Dynamo's guards a saved function can check where it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def saveable_guards(guards: Sequence[Any]) -> list[bool]:
    """A ``guard_filter_fn`` that keeps every guard torch can write to a file, for ``aot_compile`` of larger models.

    Torch's own filter leaves out guards on globals and on object identity, but not those that come down to identity
    (``x.__class__ is C``), and then refuses to save: "ID_MATCH guard cannot be serialized". This one leaves these out
    too. Guards on weights, arguments, sizes, types, flags, and the global state of torch all stay.

    Args:
        guards: torch's ``GuardFilterEntry``s.
    """
    from torch._dynamo.guards import CheckFunctionManager

    by_identity = frozenset(CheckFunctionManager.UNSUPPORTED_SERIALIZATION_GUARD_TYPES)

    def keeps(guard: Any) -> bool:
        if guard.is_global or guard.guard_type in by_identity:
            return False
        if guard.guard_type in ("TYPE_MATCH", "BUILTIN_MATCH"):
            return not getattr(guard.orig_guard, "_unserializable", False)
        return by_identity.isdisjoint(guard.derived_guard_types)

    return [keeps(guard) for guard in guards]
