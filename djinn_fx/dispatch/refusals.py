"""What a user is told when no engine that was asked for serves a graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence

log = logging.getLogger("djinn_fx.dispatch")

#: Sentences that were a warning already: a model has many graphs.
_SAID: set[str] = set()
_MAX_SAID = 256

#: Label of a graph that is one region.
WHOLE = "whole graph"


def cannot_serve(refused: Sequence[tuple[str, str]], instead: str | None, label: str = WHOLE) -> str:
    """The sentence.

    Args:
        refused: the engines and what each of them said.
        instead: the engine that serves in their place; None: the region's own ops do.
        label: of what they do not serve.
    """
    what = "this graph" if label == WHOLE else label
    lines = [(engine, without_name(engine, why).removeprefix(f"cannot open {label}: ")) for engine, why in refused]
    told = " and ".join(f"{engine} cannot serve {what}: {line}" for engine, line in lines)
    serves = f"{instead} does" if instead is not None else "its own ops do"
    return f"djinn_fx: {told}; {serves}. {_remedy(told)}"


def without_name(engine: str, why: str) -> str:
    """What an engine said, without its name in front."""
    while why.startswith(f"{engine}: "):
        why = why.removeprefix(f"{engine}: ")
    return why.strip().rstrip(".;")


def _remedy(told: str) -> str:
    if "pip install" in told:
        return "Or name another engine (option engine; `auto` tries those that are installed)."
    return "Name another engine (option engine; `auto` tries those that are installed)."


def warn(sentence: str) -> None:
    """Log a sentence: as a warning when it is new."""
    new = sentence not in _SAID and len(_SAID) < _MAX_SAID
    _SAID.add(sentence)
    log.log(logging.WARNING if new else logging.INFO, "%s", sentence)
