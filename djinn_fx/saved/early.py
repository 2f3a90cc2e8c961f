"""An engine opened while torch still looks for the graph that it serves.

Torch hashes a graph, loads what it kept of it and makes guards, which takes a second for a model of 24 layers. Opening
the engine that won takes nearly as long, in a library that needs no interpreter. So both are done at once. What is to
be opened is found by a key that takes milliseconds and may be wrong: it leads to the text of the kept graph that it led
to last time. Only if torch then finds that very text is what was made of it used; else it is let go of. The engine
itself knows which weights it was opened for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from djinn_fx.engines.base import RegionCallable
from djinn_fx.saved.contested import EnginesLater
from djinn_fx.settings.table import Settings
from djinn_fx.store.opening import open_store
from djinn_fx.store.store import Store
from djinn_fx.threads import new_lock, old_objects_left_alone, start_thread

log = logging.getLogger("djinn_fx.runtime")

#: Raise when the meaning of an entry changes.
_SCHEMA = 1


class Early:
    """See the module's text: one of Dynamo's graphs.

    Args:
        store: holds the texts; None: there is none.
        key: of the graph, see :func:`early_key`.
        inputs: that it is about to be called with.
    """

    def __init__(self, store: Store | None, key: str, inputs: Sequence[Any]) -> None:
        self._store, self._key, self._inputs = store, key, list(inputs)
        self._text: str | None = None
        self._made: RegionCallable | None = None
        self._over, self._lock = False, new_lock()

    def begin(self) -> None:
        """Start opening what served such a graph last time, if one did."""
        entry = self._store.get(self._key) if self._store is not None else None
        if entry is None or entry.header.get("schema") != _SCHEMA:
            return
        self._text = entry.payload.decode()
        start_thread(self._make, "djinn opens early", beside=True)

    def taken(self, text: str) -> RegionCallable | None:
        """What was made of this text; None if that is still to be done. Notes the text for the next process."""
        with self._lock:  # waits while it is being made
            self._over, made, self._made = True, self._made, None
        self._inputs = []
        if text == self._text:
            return made
        self.note(text)
        _let_go(made)
        return None

    def note(self, text: str) -> None:
        """The next process that meets the graph is to begin with this text."""
        if self._store is None or not _in_one_piece(form := json.loads(text)):
            return
        header = {"schema": _SCHEMA, "what": "graph", "label": str(form["table"][0]["label"])}
        start_thread(functools.partial(_put, self._store, self._key, header, text), "djinn notes a graph", beside=True)

    def end(self) -> None:
        """Torch is done. What it did not ask for is let go of."""
        with self._lock:
            self._over, made, self._made = True, self._made, None
        self._inputs = []
        _let_go(made)

    def _make(self) -> None:
        with self._lock:
            if self._over:
                return
            assert self._text is not None, "begun with a text"
            from djinn_fx.saved.form import restore

            try:
                with old_objects_left_alone():
                    form = json.loads(self._text)
                    self._made = restore(form)
            except Exception as error:  # noqa: BLE001  (who asks for it makes it itself, and raises this with its Reason)
                log.debug("a kept graph was not made early: %s", error)
                return
            if isinstance(self._made, EnginesLater) and _are_of(form, self._inputs):
                self._made.begin(self._inputs)


def _put(store: Store, key: str, header: dict[str, Any], text: str) -> None:
    store.put(key, header, text.encode())


def _let_go(made: RegionCallable | None) -> None:
    if isinstance(made, EnginesLater):
        made.let_go()


def _in_one_piece(form: Any) -> bool:
    """Whether engines compete for a graph in one piece, with sizes that are always the same."""
    rows = form.get("table", ())
    return len(rows) == 1 and bool(rows[0].get("competing")) and not rows[0]["form"]["symbols"]


def _are_of(form: Any, inputs: Sequence[Any]) -> bool:
    """Whether Dynamo's inputs are, one by one, what the graph takes: AOTAutograd may have taken some out."""
    if not _in_one_piece(form) or form["program"]["arguments"] != len(inputs):
        return False
    values = [value for value, _ in form["table"][0]["form"]["inputs"]]
    places = form["program"]["steps"][0][1]
    return len(places) == len(values) and all(
        place < len(inputs) and _is_like(inputs[place], value) for place, value in zip(places, values, strict=True)
    )


def _is_like(given: Any, value: Any) -> bool:
    if not isinstance(given, torch.Tensor) or len(value) < 3:
        return False
    dtype, shape, strides = value[:3]
    return (str(given.dtype), list(given.shape), list(given.stride())) == (f"torch.{dtype}", shape, strides)


def early_key(gm: GraphModule, inputs: Sequence[Any], settings: Settings, tag: str) -> str | None:
    """The key of one of Dynamo's graphs, its inputs and what else a kept graph depends on; None: it is not kept.

    Two graphs may have the same key: what an argument stands for is told by its text alone.
    """
    if torch.is_grad_enabled() or not all(isinstance(one, torch.Tensor) for one in inputs):
        return None
    digest = hashlib.sha256(f"early-{_SCHEMA}-{settings.digest()}-{tag}".encode())
    for node in gm.graph.nodes:
        target = getattr(node.target, "__qualname__", node.target)
        digest.update(f"{node.op} {node.name} {target} {node.args} {node.kwargs}\n".encode())
    for one in inputs:
        digest.update(f"{one.dtype} {tuple(one.shape)} {one.stride()} {one.device}\n".encode())
    return digest.hexdigest()


def early(gm: GraphModule, inputs: Sequence[Any], settings: Settings, tag: str) -> Early | None:
    """What may be opened early for a graph, begun; None where the first call does not wait for engines anyway."""
    if settings.compile != "blocking":
        return None
    key = early_key(gm, inputs, settings, tag)
    if key is None:
        return None
    made = Early(open_store(settings)[0], key, inputs)
    made.begin()
    return made
