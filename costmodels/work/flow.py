"""How values flow between the ops of a region: which op made what another reads, and what leaves the region."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from djinn_fx.costmodels.work.sizes import Sizes
from djinn_fx.costmodels.work.user_rules import changes
from djinn_fx.costmodels.work.work import Read, Work, WorkGraph
from djinn_fx.costmodels.work.work_of import priced


def flow(sizes: Sizes, names: Sequence[str] | None) -> WorkGraph:
    """The work of the named nodes, or of the whole graph, with the reads of every op and what escapes.

    The whole graph's is kept with its sizes, and counted anew if a residency or a user's rule has changed.
    """
    if names is not None:
        chosen = frozenset(names)
        return _flow(sizes, [node for node in sizes.srg.ops if node.name in chosen])
    key = (changes(), tuple(sizes.srg.record(node).residency for node in sizes.srg.inputs))
    if sizes.kept is None or sizes.kept[0] != key:
        sizes.kept = (key, _flow(sizes, list(sizes.srg.ops)))
    graph = sizes.kept[1]
    assert isinstance(graph, WorkGraph), "sizes keep nothing else"
    return graph


def _flow(sizes: Sizes, nodes: list[Node]) -> WorkGraph:
    index = {node: place for place, node in enumerate(nodes)}
    ops: list[Work] = []
    reads: list[tuple[Read, ...]] = []
    escapes = [False] * len(nodes)
    for place, node in enumerate(nodes):
        work, moved = priced(sizes, node)
        ops.append(work)
        reads.append(
            tuple(
                Read(producer=index.get(sizes.root(source), -1), nbytes=nbytes, is_weight=held)
                for source, nbytes, held in moved.reads
            )
        )
        if any(user not in index for user in node.users) or sizes.srg.record(node).mutates:
            escapes[place] = True
            root = index.get(sizes.root(node))
            if root is not None:
                escapes[root] = True
    return WorkGraph(
        ops=tuple(ops), reads=tuple(reads), escapes=tuple(escapes), names=tuple(node.name for node in nodes)
    )
