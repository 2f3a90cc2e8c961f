"""What both sides must have equal: a region's canonical form, and which weights go into which of its inputs."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.gaps import Parts, parts_of
from djinn_fx.remote.wire.payload import Payload
from djinn_fx.srg.form.hashing import as_text, digest
from djinn_fx.srg.form.rebuild import SizeHint

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: Any) -> bool:
    """Whether this is 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True)
class GraphForm:
    """A graph as JSON, with its digest. Nobody changes it: versions share their parts.

    Attributes:
        content: ``form`` (as :func:`djinn_fx.srg.form.hashing.canonical_form` makes it), ``devices`` (which device each
            numbered one of the form is), ``hints`` (size and sign of each symbol), ``weights`` (number of an input,
            digest of what goes into it, and its bytes, in order of the numbers).
    """

    content: dict[str, Any]

    @functools.cached_property
    def text(self) -> str:
        """All of it, in the one way in which it is hashed."""
        return as_text(self.content)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of that text, in hex."""
        return digest(self.text)

    @functools.cached_property
    def parts(self) -> Parts:
        """Its ops taken apart."""
        return parts_of(self.form)

    @property
    def form(self) -> Mapping[str, Any]:
        """The canonical form."""
        found: Mapping[str, Any] = self.content["form"]
        return found

    @property
    def weights(self) -> dict[str, int]:
        """The digests of its weights with their bytes, each once."""
        return {name: size for _, name, size in self.content["weights"]}


def graph_form(
    form: Mapping[str, Any],
    weights: Mapping[int, Payload] | None = None,
    hints: Sequence[SizeHint] = (),
    devices: Mapping[str, str] | None = None,
) -> GraphForm:
    """The graph of a canonical form.

    Args:
        form: of a region.
        weights: by the number of the input that each goes into.
        hints: of its symbols.
        devices: that its form numbers.
    """
    bound = [[number, one.digest, one.nbytes] for number, one in sorted((weights or {}).items())]
    known = [[hint.value, hint.positive] for hint in hints]
    content = {"form": form, "devices": devices or {}, "hints": known, "weights": bound}
    return GraphForm(json.loads(as_text(content)))  # as the other side will read it


def checked(content: Any) -> GraphForm:
    """A graph that came, if it has the parts that a graph has; whether its ops mean anything is for who rebuilds it.

    Raises:
        EngineError: it has not.
    """
    try:
        problem = _problem(content)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        problem = f"{type(error).__name__}: {str(error)[:120]}"
    if problem is not None:
        raise EngineError(f"a graph that came from another machine is none: {problem}")
    return GraphForm(content)


def _problem(content: Any) -> str | None:
    if set(content) != {"form", "devices", "hints", "weights"}:
        return "it has other parts"
    form = content["form"]
    if set(form) != {"inputs", "ops", "outputs", "symbols"} or not all(
        isinstance(part, list) for part in form.values()
    ):
        return "its form has other parts"
    for value, storages in form["inputs"]:
        if not isinstance(value, list) or not all(type(one) is int for one in storages):
            return "an input is none"
    for target, args, kwargs, value in form["ops"]:
        parts = isinstance(args, list) and isinstance(kwargs, list) and isinstance(value, list)
        if not isinstance(target, str) or not parts or args[:1] != ["list"] or kwargs[:1] != ["dict"]:
            return "an op is none"
    values = len(form["inputs"]) + len(form["ops"])
    if not all(type(one) is int and 0 <= one < values for one in form["outputs"]):
        return "it gives back what it has not"
    if not isinstance(content["devices"], dict) or not isinstance(content["hints"], list):
        return "its devices or sizes are none"
    last = -1
    for number, name, size in content["weights"]:
        if type(number) is not int or not last < number < len(form["inputs"]) or not is_digest(name):
            return "a weight is none"
        if type(size) is not int or size < 0:
            return "a weight has no size"
        last = number
    return None
