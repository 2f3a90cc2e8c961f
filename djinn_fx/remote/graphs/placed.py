"""A part with what its worker is known to have of it: compiled there once, its weights sent as they change."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from djinn_fx.engines.bound.watch import Watch
from djinn_fx.engines.keys import Guards
from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import GraphForm, graph_form
from djinn_fx.remote.graphs.digests import DIGESTS
from djinn_fx.remote.graphs.holding import Holding
from djinn_fx.remote.graphs.parts import Part
from djinn_fx.remote.wire.frame import encode
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.remote.workers import requests


class PlacedPart:
    """A part on its worker.

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
        self._watch: Watch | None = None
        self.prepared = ""
        self.told: Mapping[str, Any] = {}
        self._guards: str | None = None
        self._names: list[str] = []
        weakref.finalize(self, _let_go, holding, self._names)

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
        if not anew and self._watch is not None and self._watch.holds(weights):
            return
        plain = [weight.detach() for weight in weights]
        watch = Watch(plain)  # before they are read: what is written from here on is seen
        payloads = {number: payload_of(weight) for number, weight in zip(self.part.weights, plain, strict=True)}
        for payload, digest in zip(payloads.values(), DIGESTS.of(plain), strict=True):
            if digest is not None:  # by another graph of the model, or by this one on a worker that is lost
                vars(payload)["digest"] = digest
        self._send(graph_form(self.part.form, payloads, self.part.hints, self.part.devices), payloads.values())
        if anew:
            self.prepare()
        self._watch = watch if watch.untraceable is None else None
        if self._watch is not None:
            DIGESTS.note(watch, plain, [payload.digest for payload in payloads.values()])

    def _send(self, form: GraphForm, payloads: Iterable[Payload]) -> None:
        before = list(self._names)
        self.holding.use(list(form.weights))
        self._names[:] = form.weights
        self.holding.send(form, {one.digest: one for one in payloads})
        self.holding.unused(before)
        self._form = form

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


def _let_go(holding: Holding, names: list[str]) -> None:
    holding.unused(names)
