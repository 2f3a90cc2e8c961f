"""A part with what its worker is known to have of it: compiled there once, its weights sent as they change."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.engines.bound.holders import SWEEPERS
from djinn_fx.engines.bound.watch import Watch, addresses
from djinn_fx.engines.keys import Guards
from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import GraphForm, graph_form
from djinn_fx.remote.graphs.digests import DIGESTS
from djinn_fx.remote.graphs.holding import Holding
from djinn_fx.remote.graphs.parts import Part
from djinn_fx.remote.wire.frame import encode
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.remote.workers import requests

#: Sets of weights of which a part's worker is known to have them: models of one structure share a graph.
MOST_SETS = 16


@dataclass(frozen=True)
class _Set:
    """Weights that were sent: the graph with them, and what tells whether they are as they were; None: nothing does."""

    form: GraphForm
    watch: Watch | None


class PlacedPart:
    """A part on its worker. Models of one structure may share it: it remembers the weights of each.

    Args:
        part: the region.
        holding: what is known of the worker.
        about: what the worker is to know besides the graph, to compile it: plain data.

    Attributes:
        told: what the worker said when it had compiled it: ``builds``, ``seconds``, …
    """

    def __init__(self, part: Part, holding: Holding, about: Mapping[str, Any]) -> None:
        self.part, self.holding = part, holding
        self._about = {**about, "kinds": list(part.kinds), "label": part.label}
        self._form: GraphForm | None = None
        self._sets: dict[tuple[int, ...] | None, _Set] = {}  # the one that was used last is the last
        self.prepared = ""
        self.told: Mapping[str, Any] = {}
        self._guards: str | None = None
        weakref.finalize(self, _let_go, holding, self._sets.values())
        SWEEPERS.add(self)

    @property
    def graph(self) -> str:
        """The digest of the graph as it was sent last."""
        return self._form.digest if self._form is not None else ""

    def ensure(self, weights: Sequence[torch.Tensor], *, anew: bool = False) -> None:
        """See to it that the worker has the graph, compiled, with these weights as they are now.

        Only what changed is sent.

        Args:
            weights: of :attr:`Part.weights`, in that order.
            anew: though it was sent before, the worker says that it lacks something.

        Raises:
            DeviceLostError: the worker is lost.
            EngineError: it cannot have it.
        """
        key = addresses(weights)
        known = self._sets.get(key)
        if not anew and known is not None and known.watch is not None and known.watch.unchanged(weights):
            self._sets[key] = self._sets.pop(key, known)
            self._form = known.form
            return
        plain = [weight.detach() for weight in weights]
        watch = Watch(plain)  # before they are read: what is written from here on is seen
        payloads = {number: payload_of(weight) for number, weight in zip(self.part.weights, plain, strict=True)}
        for payload, digest in zip(payloads.values(), DIGESTS.of(plain), strict=True):
            if digest is not None:  # by another graph of the model, or by this one on a worker that is lost
                vars(payload)["digest"] = digest
        form = graph_form(self.part.form, payloads, self.part.hints, self.part.devices)
        self._send(form, payloads.values())
        if watch.untraceable is None:
            DIGESTS.note(watch, plain, [payload.digest for payload in payloads.values()])
            self._keep(key, _Set(form, watch))
        else:
            self._keep(None, _Set(form, None))
        if anew:
            self.prepare()

    def _send(self, form: GraphForm, payloads: Iterable[Payload]) -> None:
        self.holding.use(list(form.weights))
        try:
            self.holding.send(form, {one.digest: one for one in payloads})
        except BaseException:
            self.holding.unused(list(form.weights))
            raise
        self._form = form

    def _keep(self, key: tuple[int, ...] | None, made: _Set) -> None:
        """Remember what was sent; what it takes the place of is in use no more."""
        gone = [self._sets.pop(key, None)]
        self._sets[key] = made
        while len(self._sets) > MOST_SETS:
            gone.append(self._sets.pop(next(iter(self._sets)), None))
        _let_go(self.holding, gone)
        self.sweep()

    def sweep(self) -> int:
        """Let go of weights that nobody else holds any more; how many sets. From any thread, at any moment."""
        dead = [key for key, one in list(self._sets.items()) if one.watch is not None and one.watch.orphaned]
        _let_go(self.holding, [self._sets.pop(key, None) for key in dead])
        return len(dead)

    def prepare(self) -> None:
        """Have it compiled; its weights, which the code does not depend on, may come later.

        Raises:
            DeviceLostError: the worker is lost.
            EngineError: that failed, or the worker relies on other sizes than before.
        """
        with self.holding.lock:
            if self._form is None:
                self._send(graph_form(self.part.form, {}, self.part.hints, self.part.devices), ())
            request = encode(requests.PREPARE, {"graph": self.graph, "about": self._about})
            told = self.holding.worker.ask([(requests.PREPARE, request)]).wait()[-1]
        if told.kind != requests.PREPARED:
            raise EngineError(f"{self.holding.worker.name} cannot compile {self.part.label}: it answers {told.kind}")
        guards = told.fields.get("guards")
        if not self.prepared:
            self._rely_on(guards)
        elif guards != self._guards:
            raise EngineError(f"{self.part.label}: {self.holding.worker.name} compiled it for other sizes than before")
        self.prepared, self.told = str(told.fields["prepared"]), told.fields

    def _rely_on(self, guards: Any) -> None:
        """Hold facts about sizes against the graph at hand, which is guarded by them from now on."""
        self._guards = guards if isinstance(guards, str) else None
        if not Guards(expression=self._guards).hold(list(self.part.symints)):
            raise EngineError(f"{self.part.label}: the worker compiled it for other sizes")


def _let_go(holding: Holding, sets: Iterable[_Set | None]) -> None:
    for one in list(sets):
        if one is not None:
            holding.unused(list(one.form.weights))
