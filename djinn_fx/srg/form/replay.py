"""A canonical form as a graph that runs: what a saved function calls where no engine's artefact is.

Unlike :mod:`djinn_fx.srg.form.rebuild` this computes no fake values, so it takes microseconds an op; that nothing was
lost is proved when the form is saved, by comparing what comes out with the region itself (:func:`first_loss`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.fx import GraphModule, Node

from djinn_fx.srg.form.reading import FormReader
from djinn_fx.srg.form.targets import CannotRebuild


def replay(form: Mapping[str, Any], devices: Mapping[str, str]) -> GraphModule:
    """The graph of a region's canonical form: placeholders, ops, a tuple of outputs.

    Args:
        form: as :func:`djinn_fx.srg.form.hashing.canonical_form` makes it, or read back from JSON.
        devices: which device each numbered one of the form is: ``{"cuda#0": "cuda:1"}``.

    Raises:
        CannotRebuild: an op that is not known here, or a value that cannot be written down.
    """
    try:
        outputs = ["list", *(["%", number] for number in form["outputs"])]
        return FormReader(devices).graph(form, outputs, "DjinnReplay")
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        # A form is data: whatever is wrong with it ends here.
        raise CannotRebuild(f"{type(error).__name__}: {str(error)[:300]}") from error


def first_loss(original: GraphModule, copy: GraphModule) -> str | None:
    """Where a copy of a graph differs from it in what it computes, in words; None if nowhere."""
    ours, theirs = _calls(original), _calls(copy)
    if [len(part) for part in ours] != [len(part) for part in theirs]:
        return "it has another number of inputs or ops"
    number = {node: place for place, node in enumerate((*ours[0], *ours[1]))}
    again = {node: place for place, node in enumerate((*theirs[0], *theirs[1]))}

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, Node) and isinstance(other, Node):
            if one.op == "get_attr" or other.op == "get_attr":
                bodies = [_body(node) for node in (one, other)]
                return None not in bodies and first_loss(*bodies) is None  # type: ignore[arg-type]
            return number.get(one) == again.get(other) is not None
        if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
            return len(one) == len(other) and all(map(same, one, other))
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, slice) and isinstance(other, slice):
            return all(map(same, (one.start, one.stop, one.step), (other.start, other.stop, other.step)))
        if type(one) is not type(other):
            return False
        return one is other or (one.hex() == other.hex() if isinstance(one, float) else bool(one == other))

    for mine, other in zip(ours[1], theirs[1], strict=True):
        same_target = mine.target is other.target
        if not same_target or not same(mine.args, other.args) or not same(dict(mine.kwargs), dict(other.kwargs)):
            return f"{mine.format_node()} comes out as {other.format_node()}"
    if not same(ours[2], theirs[2]):
        return "it returns other values"
    return None


def _calls(gm: GraphModule) -> tuple[list[Node], list[Node], list[Any]]:
    placeholders, calls, returned = [], [], []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            placeholders.append(node)
        elif node.op == "output":
            value = node.args[0]
            returned = list(value) if isinstance(value, (tuple, list)) else [value]
        elif node.op != "get_attr":
            calls.append(node)
    return placeholders, calls, returned


def _body(node: Node) -> GraphModule | None:
    if node.op != "get_attr":
        return None
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, GraphModule) else None
