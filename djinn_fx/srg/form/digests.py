"""Structural hashes of many regions of one graph: each op's part of the form is written once, as text with gaps.

The gaps are the numbers of the values that an op reads, which differ from region to region. The text is the very one
that :func:`djinn_fx.srg.form.hashing.structural_hash` makes of the canonical form. An op whose part depends on more of
what comes before it, by a symbol or the number of a device, has no such text: a region with one is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from djinn_fx.srg.form.twins import Twins
from djinn_fx.srg.graph import META_KEY, SRG

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


class Digests:
    """Structural hashes of regions of one graph, which is not changed meanwhile.

    Args:
        srg: what regions are made of.
    """

    def __init__(self, srg: SRG) -> None:
        twins, part = srg.fact(Twins), _Part()
        values: dict[int, Any] = {}
        calls: dict[int, Any] = {}
        sources: dict[Node, tuple[Node, ...]] = {}
        for node in srg.nodes:
            try:
                look = twins.values[node]
                if look not in values:
                    values[look] = part.value(node)
                if node.op != "call_function":
                    continue
                twin = twins.ops[node]
                if twin not in calls:
                    part.sources = []
                    calls[twin] = part.call(node), look, tuple(part.sources)
                sources[node] = twins.operands.get(node, calls[twin][2])
            except NoCanonicalForm:
                continue
        texts = dict(zip(values, as_texts(list(values.values())), strict=True))
        called = as_texts([call for call, _, _ in calls.values()])
        forms = {
            # A text for ``%``, of an op in which no literal looks like a gap.
            twin: f"{text[:-1]},{texts[look]}]".replace("%", "%%").replace(_GAP_TEXT, "%d")
            for (twin, (_, look, read)), text in zip(calls.items(), called, strict=True)
            if text.count(_GAP_TEXT) == len(read)
        }
        self._values = {node: texts[look] for node, look in twins.values.items() if look in texts}
        #: Of each op its part of the form, with gaps, and whose numbers these need, in order.
        self._ops = {node: (forms[twins.ops[node]], read) for node, read in sources.items() if twins.ops[node] in forms}

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
            text, sources = op
            try:
                ops.append(text % tuple([number[source] for source in sources]))
            except KeyError:
                return None
            number[node] = len(number)
        results = ",".join([str(number[node]) for node in outputs])
        return f'{{"inputs":[{",".join(heads)}],"ops":[{",".join(ops)}],"outputs":[{results}],"symbols":[]}}'


def as_texts(forms: Sequence[Any]) -> list[str]:
    """Each form as text; all at once, which is several times as fast."""
    if not forms:
        return []
    parts = [part for form in forms for part in (form, _MARK)]
    found = as_text(parts)[1:-1].split(f",{_MARK_TEXT},")
    if len(found) != len(forms):  # a literal looks like a mark
        return [as_text(form) for form in forms]
    found[-1] = found[-1].removesuffix(f",{_MARK_TEXT}")
    return found
