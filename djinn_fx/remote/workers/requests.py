"""What a client asks of a worker besides having a graph, and what it answers: fields of frames, read with care.

Kinds of requests: those of :mod:`djinn_fx.remote.delta.messages`, and

* ``prepare``: compile a graph that was sent; answered by ``prepared``;
* ``call``: run it; answered by ``result``, or by ``lacks`` with what must be sent before;
* ``state``: the contents of what a graph writes and the worker keeps; answered by ``kept``;
* ``release``: let go of weights, states, graphs; answered by ``released``;
* ``status``: what it holds; answered by ``status``;
* ``probe``: read what comes with it and forget it, to time the link; answered by ``probed``;
* ``link``: what bytes take from it to others, and which codecs these read: from then on it packs tensors by them where
  that is sooner there; answered by ``linked``.

Whatever goes wrong with a request is answered by ``failed``. Inputs and outputs of a graph go by their numbers: tensors
of a frame are named ``i0`` (input), ``o0`` (output), ``w0`` (what an input that was written holds now, or the rows that
were) and ``x0`` (which rows).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import is_digest

PREPARE, CALL, STATE, RELEASE, STATUS, PROBE = "prepare", "call", "state", "release", "status", "probe"
LINK, LINKED = "link", "linked"
PREPARED, RESULT, LACKS, KEPT, RELEASED, FAILED = "prepared", "result", "lacks", "kept", "released", "failed"
PROBED = "probed"

#: Values that are no tensors: sizes, flags, what is not there.
Number = int | float | bool | None


@dataclass(frozen=True)
class Written:
    """An input that a graph writes.

    Attributes:
        dim: along which rows are written; None: it may be anything, and all of it is sent back.
        index: which rows: ``("i", n)`` an input, ``("o", n)`` an output.
    """

    dim: int | None = None
    index: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Call:
    """Run a graph.

    Attributes:
        graph: its digest.
        prepared: the digest of what was prepared of it.
        numbers: inputs that are no tensors.
        state: inputs that the worker keeps: the state's name, and the version that it must have.
        becomes: the version that each of these has after the call.
        from_others: inputs that come with another worker's result: which of these, and the output's number.
        gives: outputs that the client wants.
        passes: outputs that other workers want.
        written: inputs that the graph writes.
    """

    graph: str
    prepared: str
    numbers: Mapping[int, Number] = field(default_factory=dict)
    state: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    becomes: Mapping[int, int] = field(default_factory=dict)
    from_others: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    gives: Sequence[int] = ()
    passes: Sequence[int] = ()
    written: Mapping[int, Written] = field(default_factory=dict)

    def to_fields(self) -> dict[str, Any]:
        """As a frame's fields."""
        return {
            "graph": self.graph,
            "prepared": self.prepared,
            "numbers": [[n, value] for n, value in self.numbers.items()],
            "state": [[n, name, version, self.becomes[n]] for n, (name, version) in self.state.items()],
            "from_others": [[n, *where] for n, where in self.from_others.items()],
            "gives": list(self.gives),
            "passes": list(self.passes),
            "written": [[n, one.dim, one.index] for n, one in self.written.items()],
        }


def call_of(fields: Mapping[str, Any]) -> Call:
    """The call in a frame's fields.

    Raises:
        EngineError: they are none.
    """
    try:
        call = Call(
            graph=fields["graph"],
            prepared=fields["prepared"],
            numbers={_count(n): _number(value) for n, value in fields["numbers"]},
            state={_count(n): (_text(name), _count(version)) for n, name, version, _ in fields["state"]},
            becomes={_count(n): _count(after) for n, _, _, after in fields["state"]},
            from_others={_count(n): (_count(k), _count(o)) for n, k, o in fields["from_others"]},
            gives=tuple(map(_count, fields["gives"])),
            passes=tuple(map(_count, fields["passes"])),
            written={_count(n): _written(dim, index) for n, dim, index in fields["written"]},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"a call whose fields are not what they should be ({type(error).__name__}: {error})"
        ) from error
    if not is_digest(call.graph) or not is_digest(call.prepared):
        raise EngineError("a call of a graph without a digest")
    return call


def link_of(fields: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds to the first byte, and bytes per second, of a link in a frame's fields.

    Raises:
        EngineError: it is none.
    """
    told: list[Any] = [fields.get("latency_s"), fields.get("bandwidth_bytes_s")]
    if not all(type(one) in (int, float) and 0 <= one < math.inf for one in told) or not told[1]:
        raise EngineError("a link that is none")
    return float(told[0]), float(told[1])


def names_of(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts among a frame's fields.

    Raises:
        EngineError: it is none.
    """
    found = fields.get(name)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise EngineError(f"a request whose {name!r} is no list of names")
    return tuple(found)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError("a name that is none")
    return value


def _number(value: Any) -> Number:
    if value is not None and type(value) not in (int, float, bool):
        raise ValueError("a number that is none")
    found: Number = value
    return found


def _written(dim: Any, index: Any) -> Written:
    if dim is None:
        return Written()
    kind, number = index
    if kind not in ("i", "o"):
        raise ValueError("rows that nobody tells")
    return Written(dim=_count(dim), index=(kind, _count(number)))
