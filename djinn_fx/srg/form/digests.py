"""Structural hashes of many regions of one graph: each op's part of the form is written once, as text with gaps.

The gaps are the numbers of the values that an op reads, which differ from region to region. The text is the very one
that :func:`djinn_fx.srg.form.hashing.structural_hash` makes of the canonical form. An op whose part depends on more of
what comes before it, by a symbol or the number of a device, has no such text: a region with one is written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from djinn_fx.srg.form.hashing import (
    Canonicaliser,
    NoCanonicalForm,
    Scope,
    as_text,
    canonical_form,
    digest,
    structural_hash,
)
from djinn_fx.srg.graph import META_KEY, fake_value

#: Stands for a number that is not known yet, and what it looks like in a text.
_GAP = "\x00"
_GAP_TEXT = as_text(_GAP)
#: Stands between forms.
_MARK = "\x01"
_MARK_TEXT = as_text(_MARK)


class _NotAlone(NoCanonicalForm):
    """A part of the form depends on what comes before it."""


class _Alone(Scope):
    """A scope in which nothing has come before: what would have to be numbered has no form."""

    def device(self, device: torch.device) -> str:
        if device.index is None or device.type == "cpu":
            return device.type
        raise _NotAlone("a numbered device")

    def expression(self, text: str, value: Any) -> str:
        raise _NotAlone(f"the expression {text}")


class _Part(Canonicaliser):
    """The part of one op or value; what an op reads are gaps, listed in ``sources``."""

    def __init__(self) -> None:
        super().__init__((), (), (), _Alone())
        self.sources: list[Node] = []

    def edge(self, source: Node, user: Node) -> Any:
        if source.op == "get_attr" and not source.meta[META_KEY].outputs:
            raise _NotAlone(f"the body {source.name}")
        self.sources.append(source)
        return ["%", _GAP]

    def _rare_literal(self, value: Any, node: Node) -> Any:
        if isinstance(value, GraphModule):
            raise _NotAlone("a body")
        return super()._rare_literal(value, node)


@dataclass(frozen=True)
class _Op:
    """An op's part of the form: a text for ``%``, and whose numbers it needs, in order."""

    text: str
    sources: tuple[Node, ...]


class Digests:
    """Structural hashes of regions of one graph, which is not changed meanwhile.

    Args:
        nodes: all that regions may be made of, and what these may read.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        values: dict[Node, Any] = {}
        alike: dict[object, Any] = {}
        calls: dict[Node, tuple[Any, tuple[Node, ...]]] = {}
        part = _Part()
        for node in nodes:
            try:
                key = _look(node)
                if key not in alike:
                    alike[key] = part.value(node)
                values[node] = alike[key]
                if node.op == "call_function":
                    part.sources = []
                    calls[node] = part.call(node), tuple(part.sources)
            except NoCanonicalForm:
                continue
        self._values = dict(zip(values, _texts(list(values.values())), strict=True))
        texts = _texts([call for call, _ in calls.values()])
        self._ops: dict[Node, _Op] = {}
        for (node, (_, sources)), text in zip(calls.items(), texts, strict=True):
            if text.count(_GAP_TEXT) == len(sources):  # else a literal looks like a gap
                text = f"{text[:-1]},{self._values[node]}]".replace("%", "%%").replace(_GAP_TEXT, "%d")
                self._ops[node] = _Op(text, sources)

    def of(self, nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node]) -> str:
        """The structural hash of a region; arguments as for :func:`~djinn_fx.srg.form.hashing.canonical_form`.

        Raises:
            NoCanonicalForm: the region has none.
        """
        text = self._text(nodes, inputs, outputs)
        return structural_hash(canonical_form(nodes, inputs, outputs)) if text is None else digest(text)

    def _text(self, nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node]) -> str | None:
        """The form as text; None where it has to be written out, if there is one."""
        number: dict[Node, int] = {}
        storages: dict[int, int] = {}
        heads, ops = [], []
        for node in inputs:
            value = self._values.get(node)
            if value is None:
                return None
            number[node] = len(number)
            known = [storages.setdefault(meta.storage, len(storages)) for meta in node.meta[META_KEY].outputs]
            heads.append(f"[{value},[{','.join(map(str, known))}]]")
        for node in nodes:
            op = self._ops.get(node)
            if op is None:
                return None
            try:
                ops.append(op.text % tuple([number[source] for source in op.sources]))
            except KeyError:
                return None
            number[node] = len(number)
        results = ",".join([str(number[node]) for node in outputs])
        return f'{{"inputs":[{",".join(heads)}],"ops":[{",".join(ops)}],"outputs":[{results}],"symbols":[]}}'


def _look(node: Node) -> object:
    """What a value's form is made of; the node itself where that is not just one tensor of known sizes."""
    value, metas = fake_value(node), node.meta[META_KEY].outputs
    if not isinstance(value, torch.Tensor) or len(metas) != 1 or metas[0].is_symbolic:
        return node
    one = metas[0]
    flags = (value.is_conj(), value.is_neg()) if one.layout == "strided" else ()
    return one.dtype, one.shape, one.strides, one.storage_offset, one.layout, value.device, type(value), flags


def _texts(forms: Sequence[Any]) -> list[str]:
    """Each form as text; all at once, which is several times as fast."""
    if not forms:
        return []
    parts = [part for form in forms for part in (form, _MARK)]
    found = as_text(parts)[1:-1].split(f",{_MARK_TEXT},")
    if len(found) != len(forms):  # a literal looks like a mark
        return [as_text(form) for form in forms]
    found[-1] = found[-1].removesuffix(f",{_MARK_TEXT}")
    return found
