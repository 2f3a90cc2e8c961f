"""YAML of anybody's, within bounds: how much of it there is, how deep it goes, and what aliases make of it. No torch.

YAML 1.1 takes ``1:30`` for 90, ``010`` for 8 and ``2024-01-01`` for a date, and ``1e9`` for text. Here the first three
are text, which whoever reads them takes or refuses, and the last is a number.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from djinn_fx.errors import SettingsError

#: A topology of 20,000 links has about this many bytes.
MAX_BYTES = 2 * 2**20
#: What we read is six levels deep at most.
MAX_DEPTH = 40
#: Values, those that an alias stands for counted each time.
MAX_VALUES = 200_000

#: Up to this size a text with a mistake is read again for the sake of a better message.
_SMALL_BYTES = 64 * 2**10
# libyaml's loader where PyYAML has it: thirty times faster, and the same marks.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)",
    "tag:yaml.org,2002:float": r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|"
    r"\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
}


class Loader(_Base):  # type: ignore[misc]  # which of two classes it is shows only at run time
    """The safe loader, with numbers as above."""


Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in _NUMBERS] for first, pairs in _Base.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list("-+.0123456789"))


def read_bytes(path: Path) -> bytes:
    """The contents of a file of YAML or other text.

    Raises:
        SettingsError: it is no regular file, or too large.
        OSError: it cannot be read.
    """
    # Opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{path}: cannot be read: it is no file")
        if status.st_size > MAX_BYTES:
            raise SettingsError(f"{path}: {status.st_size} bytes are too many, {MAX_BYTES} are allowed")
        return stream.read(MAX_BYTES + 1)


def read_text(path: Path, what: str = "text") -> str:
    """As :func:`read_bytes`, in UTF-8; what is wrong is a SettingsError in each case.

    Args:
        path: of the file.
        what: it should be, for errors.
    """
    try:
        return read_bytes(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as {what}: {error}") from error


def checked(text: str | bytes, where: str, *, expanded: bool = True) -> Any:
    """A loader for the text, of which the bounds were checked; to be disposed of.

    Args:
        text: the YAML.
        where: what errors call it.
        expanded: count what an alias stands for each time, not once: whoever reads it goes through it each time.

    Raises:
        SettingsError: it goes beyond the bounds.
        yaml.YAMLError: it is no YAML.
    """
    if len(text) > MAX_BYTES:
        raise SettingsError(f"{where}: {len(text)} bytes are too many, {MAX_BYTES} are allowed")
    try:
        _check(text, where, _Base, expanded)
    except yaml.YAMLError:
        # The slow loader says better where a mistake is.
        if len(text) > _SMALL_BYTES:
            raise
        _check(text, where, yaml.SafeLoader, expanded)
    return Loader(text)


def _check(text: str | bytes, where: str, loader: Any, expanded: bool) -> None:
    values = 0
    opened: list[tuple[str | None, int]] = []
    sizes: dict[str | None, int] = {}
    for event in yaml.parse(text, Loader=loader):
        before = values
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, start = opened.pop()
            sizes[anchor] = values - start
        elif isinstance(event, yaml.AliasEvent):
            values += sizes.get(event.anchor, 1) if expanded else 1
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, before))
            else:
                sizes[event.anchor] = 1
        too_deep = len(opened) > MAX_DEPTH
        if too_deep or values > MAX_VALUES:
            what = f"nested deeper than {MAX_DEPTH} levels" if too_deep else f"more than {MAX_VALUES} values"
            mark = event.start_mark
            place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark is not None else where
            raise SettingsError(f"{place}: {what}: nothing that belongs here is so")
