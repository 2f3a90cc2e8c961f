"""The requests of a file one by one, JSON or YAML, however long it is: only one of them is in memory at a time.

Either a list, or keys and values of which ``requests`` is a list. Nothing in a file is executed: JSON has no way to,
and of YAML only plain values are taken; any tag of its own is refused.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from djinn_fx.errors import SettingsError
from djinn_fx.files.yaml_bounds import MAX_DEPTH, Loader

#: Characters of one request, and of what is before the list, at most.
MOST_CHARS = 4 * 2**20
_CHUNK = 2**16
_WHITE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Item:
    """A request as it stands in a file.

    Attributes:
        value: plain values.
        line: where it begins, from 1.
        line_of: the line of one of its keys, or of a key of a key.
    """

    value: Any
    line: int
    line_of: Callable[[str], int]


def items(path: Path) -> Iterator[Item]:
    """The requests of a file, in its order.

    Raises:
        SettingsError: it cannot be read, or is not of this form; with the line.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            yield from (_json(stream, path) if path.suffix.lower() == ".json" else _yaml(stream, path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as requests: {error}") from error


# -- JSON --------------------------------------------------------------------------------------------------------------


class _Buffer:
    """A window on a stream, and the line at which it begins."""

    def __init__(self, stream: IO[str], path: Path) -> None:
        self.stream, self.path = stream, path
        self.text, self.place, self.line, self.ended = "", 0, 1, False
        self.decoder = json.JSONDecoder(object_pairs_hook=_pairs)

    def error(self, message: str) -> SettingsError:
        return SettingsError(f"{self.path}:{self.line}: {message}")

    def more(self) -> bool:
        """Read on; whether there was anything."""
        self.text, self.place = self.text[self.place :], 0
        if len(self.text) > MOST_CHARS:
            raise self.error(f"more than {MOST_CHARS} characters in one value: that is no request")
        chunk = self.stream.read(max(_CHUNK, len(self.text)))
        self.ended = not chunk
        self.text += chunk
        return bool(chunk)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            after = _WHITE.match(self.text, self.place)
            assert after is not None
            self.line += self.text.count("\n", self.place, after.end())
            self.place = after.end()
            if self.place < len(self.text) or not self.more():
                return self.text[self.place : self.place + 1]

    def take(self, wanted: str) -> str:
        """One of some characters, which must come next."""
        found = self.peek()
        if not found or found not in wanted:
            words = " or ".join(repr(one) for one in wanted)
            raise self.error(f"expected {words}, found {repr(found) if found else 'the end of the file'}")
        self.place += 1
        return found

    def value(self) -> tuple[Any, int, str]:
        """The next value, the line of its beginning, and its text."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
                if end < len(self.text) or self.ended or not self.more():
                    break
            except _TwiceError as twice:
                raise self.error(f"the key {twice.args[0]!r} is there twice") from None
            except ValueError as error:
                if self.ended or not self.more():
                    lines = str(error)
                    raise self.error(f"no JSON: {lines}") from None
            except RecursionError:
                raise self.error("nested too deep to be a request") from None
        text, line = self.text[self.place : end], self.line
        self.place = end
        self.line += text.count("\n")
        return value, line, text


class _TwiceError(Exception):
    """A key is there twice."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return found


def _json(stream: IO[str], path: Path) -> Iterator[Item]:
    buffer = _Buffer(stream, path)
    first = buffer.take("{[")
    while first == "{":
        key, _, _ = buffer.value()
        buffer.take(":")
        if key == "requests":
            buffer.take("[")
            break
        buffer.value()
        if buffer.take(",}") == "}":
            raise SettingsError(f"{path}: there is no list of requests in it")
    if buffer.peek() == "]":
        return
    while True:
        value, line, text = buffer.value()

        def line_of(key: str, text: str = text, line: int = line) -> int:
            place = text.find(json.dumps(key))
            return line + text.count("\n", 0, max(place, 0))

        yield Item(value, line, line_of)
        if buffer.take(",]") == "]":
            return


# -- YAML --------------------------------------------------------------------------------------------------------------


def _line_of(lines: dict[str, int], line: int, key: str) -> int:
    return lines.get(key, line)


_PLAIN = "tag:yaml.org,2002:"


def _yaml(stream: IO[str], path: Path) -> Iterator[Item]:
    events = _Events(stream, path)
    try:
        yield from events.items()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{path}{line}: no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: no YAML: {error}") from error
    finally:
        events.loader.dispose()


class _Bounded:
    """A stream of which the parser may not read much without finding anything."""

    def __init__(self, stream: IO[str], path: Path) -> None:
        self.stream, self.path, self.since = stream, path, 0

    def read(self, size: int) -> str:
        """Characters, of which there are not too many since the last event.

        Raises:
            SettingsError: there are.
        """
        if self.since > MOST_CHARS:
            raise SettingsError(f"{self.path}: more than {MOST_CHARS} characters in one value: that is no request")
        found = self.stream.read(size)
        self.since += len(found)
        return found


class _Events:
    """Values made of YAML's events, without ever holding more of them than one request has."""

    def __init__(self, stream: IO[str], path: Path) -> None:
        self.path = path
        self.source = _Bounded(stream, path)
        self.loader = Loader(self.source)
        self.anchors: dict[str, Any] = {}
        self.lines: dict[str, int] = {}
        self.start = 0

    def next(self) -> Any:
        event = self.loader.get_event()
        self.source.since = 0
        return event

    def error(self, event: Any, message: str) -> SettingsError:
        return SettingsError(f"{self.path}:{event.start_mark.line + 1}: {message}")

    def items(self) -> Iterator[Item]:
        event = self.next()
        while not isinstance(event, (yaml.NodeEvent, yaml.StreamEndEvent)):
            event = self.next()
        if isinstance(event, yaml.MappingStartEvent):
            yield from self._of_mapping()
        elif isinstance(event, yaml.SequenceStartEvent):
            yield from self._of_list()
        else:
            raise SettingsError(f"{self.path}: there is no list of requests in it")

    def _of_mapping(self) -> Iterator[Item]:
        event = self.next()
        found = False
        while not isinstance(event, yaml.MappingEndEvent):
            key = self._value(event, 1)
            event = self.next()
            if key == "requests" and isinstance(event, yaml.SequenceStartEvent):
                found = True
                yield from self._of_list()
            else:
                self._value(event, 1)
            event = self.next()
        if not found:
            raise SettingsError(f"{self.path}: there is no list of requests in it")

    def _of_list(self) -> Iterator[Item]:
        event = self.next()
        while not isinstance(event, yaml.SequenceEndEvent):
            self.lines, line, self.start = {}, event.start_mark.line + 1, event.start_mark.index
            value = self._value(event, 1)
            yield Item(value, line, functools.partial(_line_of, self.lines, line))
            event = self.next()

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.error(event, f"the alias *{event.anchor} stands for nothing before it")
            return self.anchors[event.anchor]
        tag = getattr(event, "tag", None)
        if tag is not None and not (tag == "!" or (tag.startswith(_PLAIN) and "python" not in tag)):
            raise self.error(event, f"the tag {tag!r} is refused: nothing in a file is executed")
        if depth > MAX_DEPTH:
            raise self.error(event, f"nested deeper than {MAX_DEPTH} levels")
        if event.start_mark.index - self.start > MOST_CHARS:
            raise self.error(event, f"more than {MOST_CHARS} characters in one value: that is no request")
        value = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else self._collection(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def _collection(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.SequenceStartEvent):
            found = []
            inner = self.next()
            while not isinstance(inner, yaml.SequenceEndEvent):
                found.append(self._value(inner, depth + 1))
                inner = self.next()
            return found
        pairs: dict[Any, Any] = {}
        inner = self.next()
        while not isinstance(inner, yaml.MappingEndEvent):
            key = self._value(inner, depth + 1)
            if isinstance(key, (list, dict)):
                raise self.error(inner, "a key must be a plain value")
            if key in pairs:
                raise self.error(inner, f"the key {key!r} is there twice")
            self.lines.setdefault(str(key), inner.start_mark.line + 1)
            pairs[key] = self._value(self.next(), depth + 1)
            inner = self.next()
        return pairs

    def _scalar(self, event: Any) -> Any:
        """Text, a number, true, false or nothing, as the bounded loader reads it."""
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        try:
            return self.loader.construct_object(node)
        except (ValueError, yaml.constructor.ConstructorError) as error:
            raise self.error(event, f"{event.value!r} cannot be read: {error}") from error
