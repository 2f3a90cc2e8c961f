"""What TensorRT says, and the networks that its builders and parsers are given to fill."""

from __future__ import annotations

import functools
import importlib
from collections import deque
from typing import Any

#: Messages kept of one build.
MESSAGES = 200

#: What asking for a GPU says on a machine without one; no part of any build's trouble.
_NO_GPU = ("catchCudaError", "CUDA initialization failure", "getCurrentCC")


class Messages:
    """What TensorRT says, the newest :data:`MESSAGES`; its logger is one for the whole process."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, bool, str]] = deque(maxlen=MESSAGES)
        self._count = 0

    def add(self, text: str, *, error: bool) -> None:
        """Keep a message."""
        if any(one in text for one in _NO_GPU):
            return
        self._kept.append((self._count, error, text.strip()))
        self._count += 1

    def mark(self) -> int:
        """Where we are now, for :meth:`errors` and :meth:`since`."""
        return self._count

    def since(self, mark: int) -> tuple[str, ...]:
        """Messages since a mark, each once."""
        return tuple(dict.fromkeys(text for number, _, text in self._kept if number >= mark))

    def errors(self, mark: int) -> tuple[str, ...]:
        """Errors since a mark, each once."""
        return tuple(dict.fromkeys(text for number, error, text in self._kept if number >= mark and error))


@functools.cache
def _logger(name: str) -> tuple[Any, Messages]:
    trt = importlib.import_module(name)
    messages = Messages()
    base: Any = trt.ILogger

    class Logger(base):  # type: ignore[misc]
        """Collects warnings and errors; says nothing itself."""

        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity <= base.Severity.WARNING:
                messages.add(text, error=severity <= base.Severity.ERROR)

    return Logger(), messages


def logger(trt: Any) -> Any:
    """The logger of this process for a library; every builder, parser and runtime is made with it."""
    return _logger(trt.__name__)[0]


def messages(trt: Any) -> Messages:
    """What that logger has collected."""
    return _logger(trt.__name__)[1]


def strongly_typed(trt: Any, builder: Any) -> Any:
    """An empty network in which every value has the type that was asked for; later versions know no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))
