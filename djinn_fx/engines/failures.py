"""What an engine's error says of the arguments it was given, and in what words it is told."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from djinn_fx.errors import EngineError, HalfWrittenError, useful_line

_VERSION: Any = operator.attrgetter("_version")


def said(error: Exception) -> str:
    """An error in a Reason's words."""
    return str(error) if isinstance(error, EngineError) else useful_line(error)


def nothing_written(error: Exception, mutated: Sequence[int]) -> bool:
    """Whether the arguments are as they were before an engine failed, so that eager can answer the call.

    Args:
        error: what it raised. Of an error that nobody foresaw we only know that what is never written was not.
        mutated: the arguments that a call writes into.
    """
    if isinstance(error, EngineError):
        return not isinstance(error, HalfWrittenError)
    return not mutated


def versions(args: Sequence[Any], places: Sequence[int]) -> list[int] | None:
    """How often torch has written into these arguments; None where it does not count."""
    try:
        return [_VERSION(args[place]) for place in places]
    except RuntimeError:  # a tensor of inference mode
        return None


def unforeseen(error: Exception, what: str, before: list[int] | None, after: list[int] | None) -> EngineError:
    """An error that is not one of ours, as one of ours.

    Args:
        error: of a runtime, or of ours in handling it.
        what: engine and region.
        before: versions of what the call writes into, before it.
        after: the same, now.
    """
    detail = f"{what}: {useful_line(error)}"
    if before is not None and before == after:
        return EngineError(detail)
    return HalfWrittenError(f"{detail}; its arguments may be half written, so eager could not be asked")
