"""Where settings are written: arguments of ``torch.compile``, the environment, YAML files; and where in these."""

from __future__ import annotations

import difflib
import logging
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from djinn_fx.errors import SettingsError
from djinn_fx.files.yaml_bounds import checked, read_bytes

log = logging.getLogger("djinn_fx.settings.table")

ENV_PREFIX = "DJINN_"
#: Variables with our prefix that are no settings: DJINN_DEBUG=1 makes the commands show tracebacks,
#: DJINN_WRITE_PROTECTION=off has weights compared as on a kernel that does not tell of writes (docs/guard.md),
#: DJINN_CONFIG_DIR is the user's configuration folder, which no configuration file may move.
OTHER_VARIABLES = ("DJINN_DEBUG", "DJINN_WRITE_PROTECTION", "DJINN_CONFIG_DIR")
#: torch's own keys in ``options=``; torch reads them, they are not ours to judge.
TORCH_OPTIONS = ("guard_filter_fn", "use_aoti")

#: Settings of the release before this one (``old_names.py``), and their types.
OLD_TYPES: dict[str, type] = {"cache": bool, "learn": bool, "max_boundary_share": float}

#: How alike a variable's name and a setting's are that is meant: DJINN_SERVICE_HOST is no attempt at `devices`.
_TYPING_ERROR = 0.7

#: The settings' fields by name.
Fields = Mapping[str, FieldInfo]


class Entry(NamedTuple):
    """A value and where it was written."""

    value: Any
    where: str


Source = dict[str, Entry]


def from_call(mode: str | None, options: Mapping[str, Any] | None, fields: Fields) -> Source:
    """What ``mode=`` and ``options=`` say."""
    if options is not None and not isinstance(options, Mapping):
        raise SettingsError(f"options=: must be a dictionary, not {options!r:.80}")
    found: Source = {}
    for name, value in (options or {}).items():
        if name not in TORCH_OPTIONS:
            _check_name(name, "options=", fields)
            found[name] = Entry(value, "options=")
    if mode is not None:
        if "mode" in found:
            raise SettingsError("mode= and options={'mode': ...} are both given: leave one out")
        found["mode"] = Entry(mode, "mode=")
    return found


def from_environment(environ: Mapping[str, str], fields: Fields) -> Source:
    """Variables that are set and not empty.

    A name that is nearly a setting's is a typing error and refused. Any other is left alone with a warning: such
    variables exist for other causes (Kubernetes sets DJINN_SERVICE_HOST beside a service called djinn).
    """
    found: Source = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in OTHER_VARIABLES or not text:
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        where = f"environment variable {variable}"
        if name in fields or name in OLD_TYPES:
            found[name] = Entry(read_text(name, text, fields), where)
        elif _nearest(name, fields, _TYPING_ERROR):
            _check_name(name, where, fields)
        else:
            log.warning("%s is no setting of djinn-fx and is ignored", where)
    return found


_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def read_text(name: str, text: str, fields: Fields) -> Any:
    """Text from the environment or a command line as the setting's type.

    The text itself where it cannot be read as that, or there is no such setting: loading then says so.
    """
    info = fields.get(name)
    annotation: Any = info.annotation if info else OLD_TYPES.get(name, str)
    kinds = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if types.NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        return _TRUTH.get(text.lower(), text)
    if any(get_origin(kind) is tuple for kind in kinds) and (str not in kinds or "," in text):
        return re.findall(r"[^\s,{][^,{]*(?:\{[^}]*\})?", text)  # a comma inside {...} belongs to one pass's options
    if int in kinds or float in kinds:
        return _number(text, whole=int in kinds)
    return text


def _number(text: str, whole: bool) -> Any:
    """A number as Python writes it, also ``1e9`` for a whole one; the text itself if it is none.

    ``010`` is none: some take it for ten, some for eight.
    """
    try:
        return int(text, 0) if whole else float(text)
    except ValueError:
        pass
    try:
        found = float(text) if whole and "e" in text.lower() else None
    except ValueError:
        return text
    return int(found) if found is not None and found.is_integer() and abs(found) < 2**53 else text


def from_file(path: Path, fields: Fields) -> Source:
    """A YAML file's settings, each with the line and column of its value; none if there is no such file."""
    try:
        raw = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error
    found: Source = {}
    try:
        loader = checked(raw, str(path))
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise SettingsError(f"{_at(path, root.start_mark)}: write one 'name: value' a line")
        for key, value in root.value:
            name = loader.construct_object(key, deep=True)
            where = _at(path, key.start_mark)
            _check_name(name, where, fields)
            if name in found:
                raise SettingsError(f"{where}: {name!r} is given twice, first at {found[name].where}")
            # A topology is read where it is used; here it is enough to know which file describes it.
            described = name == "topology" and isinstance(value, yaml.MappingNode)
            content = str(path.absolute()) if described else _content(loader, name, value, fields)
            found[name] = Entry(content, _at(path, value.start_mark))
    except yaml.YAMLError as error:
        where = _at(path, getattr(error, "problem_mark", None))
        raise SettingsError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    return found


def read_word(name: str, text: str, fields: Fields, where: str) -> Any:
    """Text from a command line as a YAML file would have it for a setting.

    Raises:
        SettingsError: it is no YAML, or too much of it.
    """
    try:
        loader = checked(text, where)
        node = loader.get_single_node()
        return _content(loader, name, node, fields) if node is not None else text
    except yaml.YAMLError as error:
        raise SettingsError(f"{where}: the value cannot be read: {getattr(error, 'problem', None) or error}") from error


_NULLS = ("", "~", "null", "Null", "NULL")


def _content(loader: Any, name: str, node: yaml.Node, fields: Fields) -> Any:
    """A setting's value. Where a word stands without quotes, the setting's type says what it means and not YAML's
    rules, by which ``verify: off`` is false and ``compile_budget: 1:30`` is ninety.
    """
    if isinstance(node, yaml.SequenceNode):
        return [_word(loader, item) for item in node.value]
    word = _word(loader, node)
    return read_text(name, word, fields) if isinstance(word, str) and _is_plain(loader, node) else word


def _word(loader: Any, node: yaml.Node) -> Any:
    """A word as it was written; what is none, or bears a tag or quotes, as YAML has it."""
    if not _is_plain(loader, node):
        try:
            return loader.construct_object(node, deep=True)
        except ValueError as error:  # a number or date by its tag only
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error
    return None if node.value in _NULLS else node.value


def _is_plain(loader: Any, node: yaml.Node) -> bool:
    if not isinstance(node, yaml.ScalarNode) or node.style not in (None, ""):
        return False
    return bool(node.tag == loader.resolve(yaml.ScalarNode, node.value, (True, False)))


def _at(path: Path, mark: yaml.Mark | None) -> str:
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)


def _check_name(name: object, where: str, fields: Fields) -> None:
    if not isinstance(name, str) or (name not in fields and name not in OLD_TYPES):
        near = _nearest(str(name), fields)
        hint = f"did you mean {near!r}? " if near else ""
        raise SettingsError(f"{where}: unknown option {name!r}; {hint}Known: {', '.join(fields)}")


def _nearest(name: str, fields: Fields, cutoff: float = 0.6) -> str | None:
    return next(iter(difflib.get_close_matches(name, fields, n=1, cutoff=cutoff)), None)
