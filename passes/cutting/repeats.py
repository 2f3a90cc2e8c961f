"""Where a graph repeats itself: by the module stack where there is one, by structure where there is none.

Both give labels for :func:`djinn_fx.passes.cutting.partition.to_groups`; neither decides anything. Whether two labelled
units really are the same is proved afterwards by the structural hash.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch.fx import Node

from djinn_fx.passes.meaning.paths import within_model
from djinn_fx.srg.form.twins import Twins
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.record import Residency

#: One index into a container of modules, e.g. ``.3`` or ``[3]``.
_INDEX = re.compile(r"(?:\.|\[)(\d+)\]?(?=\.|\[|$)")

#: Deepest nesting of containers that is tried, e.g. stages of blocks of experts.
_MAX_DEPTH = 3

#: How many candidate periods are tried, most frequent first.
_MAX_PERIODS = 48

Labels = tuple[int | None, ...]


def by_module_stack(nodes: Sequence[Node]) -> Iterator[tuple[Labels, dict[int, str]]]:
    """Labels from the module paths that Dynamo recorded, for each nesting depth of containers.

    Yields:
        The labels, and the module path of each label.
    """
    paths = [_module_path(node) for node in nodes]
    tried: set[Labels] = set()
    for depth in range(1, _MAX_DEPTH + 1):
        numbers: dict[str, int] = {}
        labels = tuple(
            None if unit is None else numbers.setdefault(unit, len(numbers))
            for unit in (_unit(path, depth) for path in paths)
        )
        if len(numbers) > 1 and labels not in tried:
            tried.add(labels)
            yield labels, {number: _readable(path) for path, number in numbers.items()}


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return str(path)


@functools.lru_cache(maxsize=4096)
def _unit(path: str, depth: int) -> str | None:
    """The path up to its ``depth``-th container index; all of its indices if it has fewer."""
    found = None
    root = len(path) - len(within_model(path))  # which may be an argument's number
    for count, match in enumerate(_INDEX.finditer(path, root), start=1):
        found = path[: match.end()]
        if count == depth:
            break
    return found


def _readable(path: str) -> str:
    return within_model(path).replace("_modules.", "") or path


def by_structure(srg: SRG, nodes: Sequence[Node], min_ops: int) -> tuple[Labels, dict[int, str]] | None:
    """Labels from runs of ops that repeat one behind the other; None if nothing repeats.

    Args:
        srg: the graph.
        nodes: its ops in graph order.
        min_ops: shortest unit worth finding.
    """
    tokens = np.array(_tokens(srg, nodes), dtype=np.int64)
    live = _live_bytes(srg, nodes)
    labels: list[int | None] = [None] * len(nodes)
    names: dict[int, str] = {}
    pending = [(0, len(nodes))]
    while pending:
        start, end = pending.pop()
        found = _best_run(tokens[start:end], min_ops)
        if found is None:
            continue
        first, period, count = found
        first, count = _best_cut(live, start + first, period, count, _slack(tokens, start + first, period, count, end))
        for repeat in range(count):
            unit = len(names)
            names[unit] = f"repeat {repeat + 1} of {count}"
            begin = first + repeat * period
            # A write belongs to no unit, so that it goes with what computed the value: AOTAutograd puts all at the end.
            members = nodes[begin : begin + period]
            labels[begin : begin + period] = [None if srg.record(node).mutates else unit for node in members]
        pending += [(start, first), (first + count * period, end)]
    return (tuple(labels), names) if names else None


def _tokens(srg: SRG, nodes: Sequence[Node]) -> list[int]:
    """The same number for ops that look the same from close by; twins do."""
    twins, numbers = srg.fact(Twins).ops, dict[object, int]()
    of_twin: dict[int, int] = {}
    found = []
    for node in nodes:
        token = of_twin.get(twins[node])
        if token is None:
            token = of_twin[twins[node]] = numbers.setdefault(_token(srg, node), len(numbers))
        found.append(token)
    return found


def _token(srg: SRG, node: Node) -> object:
    """What an op looks like from close by: target, literals, its own values, and the values it reads.

    Not what made those values: the first layer reads what an embedding made, the others what a layer made.
    """
    literals = [a for a in (*node.args, *node.kwargs.values()) if not _holds_node(a)]
    sources = tuple([_shapes(srg, source) for source in node.all_input_nodes])
    return srg.record(node).op, str(literals) if literals else "", _shapes(srg, node), sources


def _holds_node(value: object) -> bool:
    if isinstance(value, Node):
        return True
    return isinstance(value, (tuple, list)) and any(_holds_node(item) for item in value)


def _shapes(srg: SRG, node: Node) -> tuple[object, ...]:
    return tuple([(meta.dtype, meta.shape) for meta in srg.record(node).outputs])


def _best_run(tokens: np.ndarray, min_ops: int) -> tuple[int, int, int] | None:
    """The run of repeats that saves most ops: start, period, count."""
    best: tuple[int, int, int] | None = None
    saved = 0
    for period in _periods(tokens, min_ops):
        equal = tokens[:-period] == tokens[period:]
        start, length = _longest_run(equal)
        count = 1 + length // period
        if count >= 2 and (count - 1) * period > saved:
            saved = (count - 1) * period
            best = (start, period, count)
    return best


def _periods(tokens: np.ndarray, min_ops: int) -> list[int]:
    """Distances at which equal ops follow each other, most frequent first, then shortest."""
    gaps: Counter[int] = Counter()
    last: dict[int, list[int]] = {}
    for place, token in enumerate(tokens.tolist()):
        # Within one unit an op may stand several times, so each of the last few is a candidate.
        for earlier in last.get(token, ()):
            if place - earlier >= min_ops:
                gaps[place - earlier] += 1
        last[token] = [*last.get(token, [])[-7:], place]
    ranked = sorted(gaps, key=lambda gap: (-gaps[gap], gap))
    return sorted(ranked[:_MAX_PERIODS])


def _longest_run(equal: np.ndarray) -> tuple[int, int]:
    """Start and length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], equal.view(np.int8), [0]))))
    if edges.size == 0:
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest] - starts[longest])


def _slack(tokens: np.ndarray, start: int, period: int, count: int, end: int) -> int:
    """How many ops beyond the last full repeat still follow the pattern."""
    stop = start + count * period
    slack = 0
    while stop + slack < end and slack < period and tokens[stop + slack] == tokens[stop + slack - period]:
        slack += 1
    return slack


def _best_cut(live: np.ndarray, start: int, period: int, count: int, slack: int) -> tuple[int, int]:
    """Where in the period to cut: where the fewest bytes cross. A shift beyond the slack costs one repeat."""
    best = (float("inf"), start, count)
    for shift in range(period):
        repeats = count if shift <= slack else count - 1
        if repeats < min(count, 2):
            break
        cuts = start + shift + period * np.arange(repeats + 1)
        crossing = float(live[np.minimum(cuts, len(live) - 1)].mean())
        # One repeat less is worth it only for a clearly thinner cut.
        weighted = crossing * (1.0 if repeats == count else 2.0)
        if weighted < best[0]:
            best = (weighted, start + shift, repeats)
    return best[1], best[2]


def _live_bytes(srg: SRG, nodes: Sequence[Node]) -> np.ndarray:
    """Bytes of activations alive just before each op, one entry more than ops."""
    place = {node: number for number, node in enumerate(nodes)}
    total = len(nodes)
    change = [0] * (total + 2)
    for node, made in place.items():
        record = srg.record(node)
        if record.residency is Residency.ACTIVATION and node.users:
            nbytes, last = record.nbytes, max([place.get(user, total) for user in node.users])
            change[made + 1] += nbytes
            change[last + 1] -= nbytes
    return np.cumsum(np.array(change, dtype=np.int64))[: total + 1]
