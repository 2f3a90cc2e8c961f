"""An engine opened while torch still looks for the graph that it serves.

Torch hashes a graph, loads what it kept of it and makes guards, which takes a second for a model of 24 layers. Opening
the engine that won takes nearly as long, in a library that needs no interpreter. So both are done at once. What is to
be opened is found by a key that takes milliseconds and may be wrong: it leads to the text of the kept graph that it led
to last time. Only if torch then finds that very text is what was opened kept; else it is let go of. The engine itself
knows which weights it was opened for: who makes it ready for a call finds it open.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from djinn_fx.engines.base import RegionCallable, Runner
from djinn_fx.saved.contested import EnginesLater, open_winner
from djinn_fx.settings.table import Settings
from djinn_fx.store.opening import open_store
from djinn_fx.store.store import Store
from djinn_fx.threads import new_lock, start_thread

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
        self._opened: Runner | None = None
        self._wanted = self._over = False
        self._lock = new_lock()

    def begin(self) -> None:
        """Start opening what served such a graph last time, if that is known."""
        entry = self._store.get(self._key) if self._store is not None else None
        if entry is None or entry.header.get("schema") != _SCHEMA:
            return
        self._text = entry.payload.decode()
        start_thread(functools.partial(self._open, self._text), "djinn opens early", serves=True, awaited=True)

    def found(self, text: str, form: Mapping[str, Any], made: RegionCallable) -> None:
        """Torch has found this text, of this form, and this was made of it. Notes the text for the next process."""
        with self._lock:
            self._wanted = text == self._text
        if not self._wanted:
            self.note(text)
        elif isinstance(made, EnginesLater) and _are_of(form, self._inputs):
            made.begin(self._inputs)

    def note(self, text: str) -> None:
        """The next process that meets the graph is to begin with this text."""
        if self._store is None or not _in_one_piece(form := json.loads(text)):
            return
        header = {"schema": _SCHEMA, "what": "graph", "label": str(form["table"][0]["label"])}
        start_thread(functools.partial(_put, self._store, self._key, header, text), "djinn notes a graph", beside=True)

    def end(self) -> None:
        """Torch is done. What it did not ask for is let go of."""
        with self._lock:
            self._over, opened = True, self._opened
        self._inputs = []
        if opened is not None and not self._wanted:
            opened.release()

    def _open(self, text: str) -> None:
        try:
            form, inputs = json.loads(text), self._inputs
            if not _are_of(form, inputs):
                return
            given = [inputs[place] for place in form["program"]["steps"][0][1]]
            run = open_winner(form["table"][0], given, Settings(**form["settings"]))
        except Exception as error:  # noqa: BLE001  (who makes it ready does it again, and has this as its Reason)
            log.debug("an engine was not opened early: %s", error)
            return
        with self._lock:
            self._opened, unwanted = run, self._over and not self._wanted
        if run is not None and unwanted:
            run.release()


def _put(store: Store, key: str, header: dict[str, Any], text: str) -> None:
    store.put(key, header, text.encode())


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
