"""What strides Inductor says that its results have. It tells them to whoever traces; a region it compiles alone is not.

Kept in the artefact's header, so that it can be seen of a stored one too. Where they are not the traced ones, the
executor copies the result on each call and tells it (:mod:`djinn_fx.runtime.layouts`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

#: The entry of an artefact's header: for each result its strides as texts, with symbols where sizes are; None: unknown.
HEADER = "output_strides"

_HEARD: ContextVar[list[Any] | None] = ContextVar("djinn_fx_inductor_strides", default=None)


@contextlib.contextmanager
def listening() -> Iterator[list[Any]]:
    """Collects what Inductor reports of each graph that it compiles inside."""
    _hook()
    heard: list[Any] = []
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


@functools.cache
def _hook() -> None:
    """Hear of each graph where it is made callable: the one place where its strides are told."""
    try:
        from torch._inductor.output_code import CompiledFxGraph
    except ImportError:  # another torch: nothing is heard
        return
    theirs = CompiledFxGraph.post_compile

    @functools.wraps(theirs)
    def post_compile(self: Any, *args: Any, **kwargs: Any) -> Any:
        heard = _HEARD.get()
        if heard is not None:
            heard.append(getattr(self, "output_strides", None))
        return theirs(self, *args, **kwargs)

    CompiledFxGraph.post_compile = post_compile  # type: ignore[method-assign]


def as_header(heard: list[Any], outputs: int) -> dict[str, Any]:
    """What goes into the header of a region's artefact; nothing, if the results are not the compiled graph's own."""
    if len(heard) != 1 or heard[0] is None or len(heard[0]) != outputs:
        return {}
    return {HEADER: [None if one is None else [str(stride) for stride in one] for one in heard[0]]}
