"""What the two sides say to each other, as frames.

A message is about one version of one session: a client that starts anew has a higher session, one that sends another
graph a higher version, so that whatever comes late is known to be old. An answer bears the incarnation of the worker,
which is higher after a restart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import GraphForm, checked, is_digest
from djinn_fx.remote.wire.frame import Frame, encode
from djinn_fx.remote.wire.limits import LIMITS, Limits
from djinn_fx.remote.wire.payload import Payload
from djinn_fx.remote.wire.text import text_in, text_payload, written

#: Peers that know graphs in full only, with all their weights.
WHOLE_ONLY = 1
#: Peers that know changes, and weights by digest. Raised with every change of a message or of the edits in one.
PROTOCOL = 2


@dataclass(frozen=True, kw_only=True)
class Full:
    """A graph, all of it.

    Attributes:
        session: of the client.
        version: within that session.
        digest: of the graph.
        graph: the same.
        follow: digests of weights that are sent after this.
    """

    kind: ClassVar[str] = "graph/full"
    session: int
    version: int
    digest: str
    graph: GraphForm
    follow: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What changed from a graph that the peer has.

    Attributes:
        session: of the client.
        version: within that session.
        digest: of the graph that is meant.
        base: of the one it is made from.
        edits: as :mod:`djinn_fx.remote.delta.edits` makes them; None: it is a graph that the peer has.
        follow: digests of weights that are sent after this.
    """

    kind: ClassVar[str] = "graph/delta"
    session: int
    version: int
    digest: str
    base: str
    edits: Mapping[str, Any] | None
    follow: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Some weights.

    Attributes:
        payloads: by digest, on the side that sends them.
        tensors: by digest, on the side that they came to, each held against its digest.
        readonly: the tensors must not be written.
    """

    kind: ClassVar[str] = "weights"
    payloads: Mapping[str, Payload] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    readonly: bool = False


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a worker says about a version.

    Attributes:
        session: of the client.
        version: which this is about.
        incarnation: of the worker.
        protocol: the newest that it knows.
    """

    kind: ClassVar[str] = ""
    session: int
    version: int
    incarnation: int
    protocol: int


@dataclass(frozen=True, kw_only=True)
class Ready(Reply):
    """It has the graph and all its weights.

    Attributes:
        digest: of that graph.
    """

    kind: ClassVar[str] = "ready"
    digest: str


@dataclass(frozen=True, kw_only=True)
class Needs(Reply):
    """It lacks something.

    Attributes:
        graph: the graph in full.
        weights: digests of weights that it has not and that were not to follow.
        why: in words.
    """

    kind: ClassVar[str] = "needs"
    graph: bool
    weights: tuple[str, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class Refuses(Reply):
    """It cannot have that graph, in whatever form it is sent.

    Attributes:
        why: in words.
    """

    kind: ClassVar[str] = "refuses"
    why: str


Message = Full | Delta | Weights
Answer = Ready | Needs | Refuses
_KINDS: dict[str, Any] = {one.kind: one for one in (Full, Delta, Weights, Ready, Needs, Refuses)}


def to_frame(message: Message | Answer, *, limits: Limits = LIMITS) -> list[bytes | memoryview]:
    """The pieces of a message's frame.

    Raises:
        EngineError: it is larger than the limits allow.
    """
    apart = ("graph", "edits", "payloads", "tensors", "readonly") if not isinstance(message, Reply) else ()
    fields = {one.name: getattr(message, one.name) for one in dataclasses.fields(message) if one.name not in apart}
    payloads: Mapping[str, Payload] = {}
    if isinstance(message, Full):
        payloads = {"graph": text_payload(message.graph.text.encode())}
    elif isinstance(message, Delta) and message.edits is not None:
        payloads = {"edits": text_payload(written(message.edits, "edits of a graph"))}
    elif isinstance(message, Weights):
        payloads = message.payloads
    return encode(message.kind, fields, payloads, limits=limits)


def from_frame(frame: Frame, *, limits: Limits = LIMITS) -> Message | Answer:
    """The message of a frame.

    Raises:
        EngineError: it is none of these messages, or not whole.
    """
    kind = _KINDS.get(frame.kind)
    if kind is None:
        raise EngineError(f"a message of the unknown kind {frame.kind[:40]!r}")
    content: dict[str, Any] = dict(frame.fields)
    tensors = dict(frame.tensors)
    wanted = {Full: [{"graph"}], Delta: [set(), {"edits"}], Weights: [set(tensors)]}.get(kind, [set()])
    if set(tensors) not in wanted:
        raise EngineError(f"a message {kind.kind!r} with other tensors than it has")
    if kind is Full:
        content["graph"] = checked(text_in(tensors["graph"], "a graph", limits))
    elif kind is Delta:
        content["edits"] = text_in(tensors["edits"], "edits of a graph", limits) if tensors else None
    elif kind is Weights:
        if any(not is_digest(name) or frame.digests.get(name) != name for name in tensors):
            raise EngineError("weights that were not held against their digests")
        content |= {"tensors": tensors, "readonly": frame.readonly}
    made: Message | Answer = _made(kind, content)
    return made


def _made(kind: Any, content: dict[str, Any]) -> Any:
    """A message of what came.

    Raises:
        EngineError: a field is missing, too much, or of another type.
    """
    for name in ("follow", "weights"):
        if isinstance(content.get(name), list):
            content[name] = tuple(content[name])
    fields = dataclasses.fields(kind)
    names = {field.name for field in fields if field.name != "payloads"}
    if set(content) != names or not all(_CHECKS[name](content[name]) for name in names):
        raise EngineError(f"a message {kind.kind!r} whose fields are not what they should be")
    return kind(**content)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _digests(value: Any) -> bool:
    return isinstance(value, tuple) and all(is_digest(one) for one in value)


_CHECKS: dict[str, Any] = {
    **dict.fromkeys(("session", "version", "incarnation", "protocol"), _whole),
    **dict.fromkeys(("digest", "base"), is_digest),
    **dict.fromkeys(("follow", "weights"), _digests),
    "graph": lambda value: isinstance(value, (GraphForm, bool)),
    "edits": lambda value: value is None or isinstance(value, dict),
    "tensors": lambda value: True,
    "readonly": lambda value: True,
    "why": lambda value: isinstance(value, str),
}


def grouped(payloads: Mapping[str, Payload], group_bytes: int) -> Iterable[dict[str, Payload]]:
    """Weights in groups of so many bytes; a large one goes alone, so that whoever drops it has its memory back."""
    group: dict[str, Payload] = {}
    size = 0
    for name, payload in payloads.items():
        if group and size + payload.nbytes > group_bytes:
            yield group
            group, size = {}, 0
        group[name] = payload
        size += payload.nbytes
    if group:
        yield group
