"""YAML with places: every value knows its line and column, so that an error can name them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import yaml

from djinn_fx.errors import SettingsError, UnitError, did_you_mean
from djinn_fx.files.yaml_bounds import checked
from djinn_fx.units import parse_bandwidth, parse_bytes, parse_seconds


@dataclass(frozen=True, kw_only=True, repr=False)  # an alias within an alias would be written out each time
class Entry:
    """A value of a YAML file.

    Attributes:
        value: a scalar as YAML reads it, a list of entries, or a dict of entries by key.
        file: what the file is called in errors.
        line: from 1.
        column: from 1.
        key_places: for a dict, the entry of each key itself.
    """

    value: Any
    file: str
    line: int
    column: int
    key_places: dict[str, Entry]

    def error(self, message: str) -> SettingsError:
        """An error at this place."""
        return SettingsError(f"{self.file}:{self.line}:{self.column}: {message}")

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: one.plain for key, one in self.value.items()}
        return [one.plain for one in self.value] if isinstance(self.value, list) else self.value

    def mapping(self, what: str, allowed: Collection[str] | None = None) -> dict[str, Entry]:
        """The value as a dict; with ``allowed``, only those keys.

        Raises:
            SettingsError: another type, or another key; the message names the nearest.
        """
        if not isinstance(self.value, dict):
            raise self.error(f"{what}: expected keys and values, found {_words(self.value)}")
        for key, place in self.key_places.items() if allowed is not None else ():
            if allowed is not None and key not in allowed:
                hint = did_you_mean(key, allowed, f"; known: {', '.join(allowed)}")
                raise place.error(f"{what}: unknown key {key!r}{hint}")
        return self.value

    def items(self, what: str) -> list[Entry]:
        """The value as a list."""
        if not isinstance(self.value, list):
            raise self.error(f"{what}: expected a list, found {_words(self.value)}")
        return self.value

    def text(self, what: str) -> str:
        """The value as text."""
        if not isinstance(self.value, str):
            raise self.error(f"{what}: expected text, found {_words(self.value)}")
        return self.value

    def count(self, what: str) -> int:
        """The value as a whole number of at least 1."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 1:
            raise self.error(f"{what}: expected a whole number of at least 1, found {_words(self.value)}")
        return self.value

    def flag(self, what: str) -> bool:
        """The value as true or false."""
        if not isinstance(self.value, bool):
            raise self.error(f"{what}: expected true or false, found {_words(self.value)}")
        return self.value

    def bandwidth(self, what: str) -> float:
        """The value as bytes per second; a bare number is refused."""
        return self._quantity(what, parse_bandwidth, "450 GB/s")

    def seconds(self, what: str) -> float:
        """The value as seconds; a bare number is refused."""
        return self._quantity(what, parse_seconds, "5us")

    def size(self, what: str) -> int:
        """The value as bytes; a bare number is refused."""
        return int(self._quantity(what, parse_bytes, "64MB"))

    def _quantity(self, what: str, parse: Any, example: str) -> float:
        if isinstance(self.value, (int, float)) and not isinstance(self.value, bool):
            raise self.error(f"{what}: {self.value} has no unit; write it as in {example!r}")
        text = self.text(what)
        if text.lstrip().startswith("-"):
            raise self.error(f"{what}: {text!r} is negative")
        try:
            return float(parse(text))
        except UnitError as error:
            raise self.error(f"{what}: {error}") from error


def read_entries(text: str, file: str, *, expanded: bool = False) -> Entry | None:
    """A YAML text as entries; None if it is empty.

    Args:
        text: the YAML.
        file: what errors call it.
        expanded: count what an alias stands for each time, as whoever asks for ``plain`` goes through it each time.

    Raises:
        SettingsError: not YAML, a key that is no text or is there twice, or an alias that contains itself.
    """
    try:
        loader = checked(text, file, expanded=expanded)
        try:
            node = loader.get_single_node()
            return _Composer(loader, file).entry(node, ()) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark is not None else file
        raise SettingsError(f"{place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"{file}: {error}") from error


class _Composer:
    """Turns YAML nodes into entries.

    Args:
        loader: that made the nodes.
        file: what the file is called in errors.
    """

    def __init__(self, loader: Any, file: str) -> None:
        self._loader = loader
        self._file = file
        #: An aliased node is read once: nested aliases would else take time exponential in their depth.
        self._known: dict[yaml.Node, Entry] = {}

    def entry(self, node: yaml.Node, above: tuple[yaml.Node, ...]) -> Entry:
        """The entry of a node; ``above``: what it lies in."""
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        if any(node is one for one in above):
            raise SettingsError(f"{self._file}:{line}:{column}: a cycle of aliases: this value contains itself")
        if node not in self._known:
            places: dict[str, Entry] = {}
            value = self._value(node, (*above, node), places)
            self._known[node] = Entry(value=value, file=self._file, line=line, column=column, key_places=places)
        return self._known[node]

    def _value(self, node: yaml.Node, above: tuple[yaml.Node, ...], places: dict[str, Entry]) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self.entry(item, above) for item in node.value]
        if not isinstance(node, yaml.MappingNode):
            return self._scalar(node)
        self._loader.flatten_mapping(node)
        value: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            key = self.entry(key_node, above)
            if not isinstance(key.value, str):
                raise key.error(f"the key {key.value!r} is no text; write it in quotes")
            if key.value in value:
                raise key.error(f"the key {key.value!r} is there twice; first in line {places[key.value].line}")
            places[key.value] = key
            value[key.value] = self.entry(value_node, above)
        return value

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node)
        except ValueError as error:
            mark = node.start_mark
            raise SettingsError(f"{self._file}:{mark.line + 1}:{mark.column + 1}: {error}") from error


def _words(value: object) -> str:
    if isinstance(value, dict):
        return "keys and values"
    return "a list" if isinstance(value, list) else "nothing" if value is None else repr(value)
