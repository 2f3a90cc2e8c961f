"""Caches that are written where they are: a scatter into an argument whose memory is given for its result, too.

A region that puts one token's keys into a cache [B, H, S, D] computes a whole new cache and copies it over the old one:
twice as many bytes as the attention reads. But the runtimes' scatter only copies its first operand where the result is
not in the same memory. So where a scatter is the one reader of the old cache, and its result becomes the new one, the
result's memory may be the argument's own, and nothing is copied. What a run that fails half-way has then written, eager
writes again.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.bound.signature import Fed, Given, Signature

#: Operators that write into a copy of their first operand, and read it nowhere else.
_SCATTERS = frozenset({"ScatterElements", "ScatterND"})


def write_in_place(graph: Any, signature: Signature) -> dict[int, int]:
    """Make each scatter whose result replaces an argument produce the model's output itself.

    Args:
        graph: an ONNX ``GraphProto``; changed.
        signature: of the model.

    Returns:
        By argument, the output that may share its memory.
    """
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(one.name for one in graph.output)
    makers = {name: node for node in graph.node for name in node.output}
    names = {one.place: one.name for one in signature.fed}
    times = Counter(place for place, _ in signature.mutated)
    found: dict[int, int] = {}
    for place, output in signature.mutated:
        name = names.get(place)
        wanted = graph.output[output].name
        last = makers.get(wanted)
        scatter = makers.get(last.input[0]) if last is not None and last.op_type == "Identity" else None
        if name is None or scatter is None or last is None or times[place] > 1:
            continue
        if scatter.op_type in _SCATTERS and scatter.input[0] == name and reads[name] == 1 and _plain(scatter):
            _produce(graph, scatter, last, wanted)
            makers[wanted] = scatter
            found[place] = output
    return found if _results_allow(signature) else {}


def _plain(scatter: Any) -> bool:
    return all(one.name != "reduction" or one.s in (b"", b"none") for one in scatter.attribute)


def _produce(graph: Any, scatter: Any, last: Any, name: str) -> None:
    """Let the scatter make the output by its own name, for all who read what it made."""
    old = scatter.output[0]
    position = next(place for place, node in enumerate(graph.node) if node is last or node == last)
    del graph.node[position]
    scatter.output[0] = name
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read == old:
                node.input[place] = name


def _results_allow(signature: Signature) -> bool:
    """Whether every result is memory of its own or an argument's: then none is an output that goes into an argument."""
    written = {output for _, output in signature.mutated}
    return all(not isinstance(one, Given) or one.output not in written for one in signature.results)


class InPlace:
    """Which arguments of a session are written where they are, and whether a call's may be.

    Args:
        shared: by argument, the output that may share its memory.
        signature: of the model.
        fed: the session's inputs.

    Attributes:
        outputs: by output, the place of the input in whose memory it is written.
    """

    def __init__(self, shared: dict[int, int], signature: Signature, fed: Sequence[Fed]) -> None:
        inputs = {one.place: place for place, one in enumerate(fed)}
        self._pairs = [(argument, inputs[argument]) for argument in shared]
        self._places = [place for _, place in self._pairs]
        self._apart: tuple[list[int], list[int], list[tuple[int, int]]] = ([], [], [])
        self._readers = [place for place in range(len(fed)) if place not in self._places]
        self.outputs = {output: inputs[argument] for argument, output in shared.items()}
        self._rest = [pair for pair in signature.mutated if pair[0] not in shared]

    def may(self, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these arguments may be: they are given to the runtime themselves, and share no memory.

        Args:
            args: the region's.
            tensors: the session's inputs, made of them.
        """
        for argument, place in self._pairs:
            if tensors[place] is not args[argument]:
                return False
        spans = [_span(tensors[place]) for place in self._places]
        starts, ends, known = self._apart
        if known != spans:  # what is written mostly stays where it is
            starts, ends = _disjoint(spans)
            self._apart = (starts, ends, spans)
        return bool(starts) and all(_is_clear(_span(tensors[place]), starts, ends) for place in self._readers)

    def finish(self, args: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Count a write for each argument written, and copy what was not written where it belongs."""
        tensors = [args[argument] for argument, _ in self._pairs]
        torch.autograd.graph.increment_version([one for one in tensors if not one.is_inference()])
        for place, output in self._rest:
            with torch.no_grad():
                args[place].copy_(outputs[output])


def _disjoint(spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Where spans of memory begin and end, in order; nothing if two of them overlap, or one is empty."""
    ordered = sorted(spans)
    starts, ends = [one[0] for one in ordered], [one[1] for one in ordered]
    overlap = any(end > start for end, start in zip(ends, starts[1:], strict=False))
    empty = any(start >= end for start, end in ordered)
    return ([], []) if overlap or empty else (starts, ends)


def _is_clear(span: tuple[int, int], starts: Sequence[int], ends: Sequence[int]) -> bool:
    """Whether a span overlaps none of those that begin and end there."""
    after = bisect.bisect_left(starts, span[1])  # the first that begins behind the span
    return after == 0 or ends[after - 1] <= span[0] or span[0] >= span[1]


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses of a contiguous tensor: first, and one past the last."""
    start = tensor.data_ptr()
    return start, start + tensor.nbytes
