"""Models and workflows from YAML or JSON, in GSwarm's form.

::

    models:
      wren7b: {memory_gb: 15, gpus_required: 1, load_time_seconds: 10.5, tokens_per_second: 47.6, token_mean: 453}
      painter: {memory_gb: 8, gpus_required: 1, load_time_seconds: 5.7, inference_time_mean: 2.1}
    workflows:
      illustrate:
        nodes: [{id: expand, model: wren7b}, {id: draw, model: painter}]
        edges: [{from: expand, to: draw}]

Ours besides: of a model ``entry`` (with it, memory and times may be left out: they are priced), ``devices`` and
``servers`` (lists of numbers: where it may be); of an edge ``bytes``; ``groups``, lists of models that stay in one
server. Other keys are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.workload import Config, ModelInfo, NodeInfo
from djinn_fx.errors import did_you_mean
from djinn_fx.files.yaml_bounds import read_text
from djinn_fx.hardware.yaml_places import Entry, read_entries

#: Gigabytes of a model; larger numbers are slips, and would not be numbers of bytes any more.
_MOST_GB = 1e9


def read_file(path: Path, what: str) -> Entry | None:
    """A small YAML or JSON file with the places of its values.

    Raises:
        SettingsError: it cannot be read, is too large, or is neither.
    """
    text = read_text(path, what)
    if path.suffix.lower() == ".json":
        text = text.replace("\t", " ")  # JSON may be indented by tabs, YAML not; within a JSON text there are none
    return read_entries(text, str(path))


def read_config(path: Path, faults: Faults, *, workflows: bool = True) -> Config:
    """A configuration; what is wrong with it is added to the faults, and left out.

    Args:
        path: of the file.
        faults: what is wrong is added here.
        workflows: whether it must have some; else they come from other files.

    Raises:
        SettingsError: it is no YAML or JSON at all, or has no models or no workflows.
    """
    top = read_file(path, "a configuration")
    if top is None:
        faults.add(str(path), "the file is empty; a configuration has models and workflows")
        faults.tell()
    assert top is not None
    parts = top.mapping("a configuration")
    for key in ("models", "workflows") if workflows else ("models",):
        if key not in parts or not parts[key].value:
            hint = "" if key in parts else did_you_mean(key, parts)
            faults.add(parts.get(key, top), f"there are no {key}{hint}")
            faults.tell()
    models = read_models(parts["models"], faults)
    found: dict[str, tuple[NodeInfo, ...]] = {}
    if "workflows" in parts:
        for name, entry in parts["workflows"].mapping("workflows").items():
            found[name] = _workflow(name, entry, models, faults)
    return Config(str(path), models, found, _groups(parts.get("groups"), models, faults))


def read_models(entry: Entry, faults: Faults) -> dict[str, ModelInfo]:
    """Models by name: keys and values, or a list whose entries have an ``id`` or ``name``."""
    found: dict[str, ModelInfo] = {}
    for name, one in _named(entry, "models", ("id", "name"), faults):
        if name in found:
            faults.add(one, f"the model {name!r} is there twice")
        found[name] = _model(name, one, faults)
    return found


def _named(entry: Entry, what: str, keys: tuple[str, ...], faults: Faults) -> list[tuple[str, Entry]]:
    if isinstance(entry.value, dict):
        return list(entry.value.items())
    found = []
    for one in entry.items(what):
        parts = one.mapping(what)
        key = next((key for key in keys if key in parts), None)
        if key is None:
            faults.add(one, f"{what}: one of {', '.join(keys)} is missing")
        else:
            found.append((str(parts[key].value), one))
    return found


def number(
    parts: Mapping[str, Entry], key: str, what: str, faults: Faults, default: float | None = None, *, above: float = 0.0
) -> float | None:
    """A number of a mapping that is not below a bound; the default where there is none, or a wrong one."""
    if key not in parts or parts[key].value is None:
        return default
    value = parts[key].value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < above:
        faults.add(parts[key], f"{what}: {key} must be a number of at least {above:g}, not {value!r}")
        return default
    return float(value)


def _model(name: str, entry: Entry, faults: Faults) -> ModelInfo:
    what = f"model {name!r}"
    parts = entry.mapping(what)
    entry_of = str(parts["entry"].value) if "entry" in parts else ""
    misspelt = did_you_mean("memory_gb", parts)
    if "memory_gb" not in parts and (misspelt or not entry_of):
        faults.add(entry, f"{what}: memory_gb is missing{misspelt}")
    memory = number(parts, "memory_gb", what, faults, 0.0) or 0.0
    gang = number(parts, "gpus_required", what, faults, 1.0, above=1.0) or 1.0
    if memory > _MOST_GB:
        faults.add(parts["memory_gb"], f"{what}: memory_gb must be {_MOST_GB:g} at most, not {memory:g}")
    if entry_of and not isinstance(parts["entry"].value, str):
        faults.add(parts["entry"], f"{what}: entry must be package.module:name, not {entry_of}")
    if gang != int(gang):
        faults.add(parts["gpus_required"], f"{what}: gpus_required must be a whole number, not {gang:g}")
    return ModelInfo(
        name=name,
        place=f"{entry.file}:{entry.line}",
        memory=round(min(memory, _MOST_GB) * 1e9),
        gang=int(gang),
        load_s=number(parts, "load_time_seconds", what, faults, 0.0) or 0.0,
        expected_s=_expected(parts, what, faults),
        entry=entry_of,
        weighed="memory_gb" in parts,
        devices=_numbers(parts.get("devices"), f"{what}: devices", faults),
        servers=_numbers(parts.get("servers"), f"{what}: servers", faults),
    )


def _expected(parts: Mapping[str, Entry], what: str, faults: Faults) -> float | None:
    """Seconds of a node: as they stand there, or tokens over tokens a second."""
    mean = number(parts, "inference_time_mean", what, faults)
    tokens, rate = number(parts, "token_mean", what, faults), number(parts, "tokens_per_second", what, faults)
    if rate == 0.0:
        faults.add(parts["tokens_per_second"], f"{what}: tokens_per_second is 0: nothing would ever end")
        return mean
    if mean is None and tokens is not None and rate is not None:
        return tokens / rate
    return mean


def _numbers(entry: Entry | None, what: str, faults: Faults) -> frozenset[int] | None:
    if entry is None:
        return None
    found = set()
    for one in entry.items(what):
        if isinstance(one.value, bool) or not isinstance(one.value, int) or one.value < 0:
            faults.add(one, f"{what}: expected whole numbers of at least 0, not {one.value!r}")
        else:
            found.add(one.value)
    return frozenset(found)


def _groups(entry: Entry | None, models: Mapping[str, ModelInfo], faults: Faults) -> tuple[frozenset[str], ...]:
    found: list[frozenset[str]] = []
    for group in entry.items("groups") if entry is not None else []:
        names = [one.text("a group's model") for one in group.items("a group")]
        for name, one in zip(names, group.value, strict=True):
            if name not in models:
                faults.add(one, f"groups: unknown model {name!r}{did_you_mean(name, models)}")
            if any(name in other for other in found):
                faults.add(one, f"groups: {name!r} is in two groups")
        found.append(frozenset(name for name in names if name in models))
    return tuple(found)


# -- workflows ---------------------------------------------------------------------------------------------------------


def _workflow(name: str, entry: Entry, models: Mapping[str, ModelInfo], faults: Faults) -> tuple[NodeInfo, ...]:
    what = f"workflow {name!r}"
    parts = entry.mapping(what)
    if "nodes" not in parts or not parts["nodes"].value:
        faults.add(entry, f"{what} has no nodes")
        return ()
    found: dict[str, str] = {}
    makers: dict[str, str] = {}
    for node, one in _named(parts["nodes"], f"{what}: a node", ("id",), faults):
        model = one.mapping(what).get("model")
        if node in found:
            faults.add(one, f"{what}: the node {node!r} is there twice")
        elif model is None:
            faults.add(one, f"{what}: the node {node!r} names no model")
        elif str(model.value) not in models:
            word = str(model.plain)
            faults.add(model, f"{what}: the node {node!r}: unknown model {word!r}{did_you_mean(word, models)}")
        found[node] = str(model.value) if model is not None else ""
        outputs = one.mapping(what).get("outputs")
        for output in outputs.value if outputs is not None and isinstance(outputs.value, list) else []:
            makers.setdefault(str(output.value), node)
    before: dict[str, dict[str, int]] = {node: {} for node in found}
    for edge in parts["edges"].items(f"{what}: edges") if "edges" in parts and parts["edges"].value else []:
        _edge(edge, what, found, makers, before, faults)
    return _ordered(entry, what, found, before, faults)


def _edge(
    edge: Entry,
    what: str,
    nodes: Mapping[str, str],
    makers: Mapping[str, str],
    before: dict[str, dict[str, int]],
    faults: Faults,
) -> None:
    ends = edge.mapping(f"{what}: an edge")
    good = True
    for key in ("from", "to"):
        if key not in ends:
            faults.add(edge, f"{what}: an edge has no {key!r}")
            good = False
        elif str(ends[key].value) not in nodes:
            word = str(ends[key].plain)
            hint = (
                f": it is an output of {makers[word]!r}, name that node"
                if word in makers
                else did_you_mean(word, nodes)
            )
            faults.add(ends[key], f"{what}: an edge's {key!r} is {word!r}, which is no node{hint}")
            good = False
    if good:
        nbytes = number(ends, "bytes", f"{what}: an edge", faults, 0.0) or 0.0
        before[str(ends["to"].value)][str(ends["from"].value)] = round(nbytes)


def _ordered(
    entry: Entry, what: str, nodes: Mapping[str, str], before: Mapping[str, Mapping[str, int]], faults: Faults
) -> tuple[NodeInfo, ...]:
    """Nodes so that each comes after those that it waits for; who waits for itself is a fault."""
    done: dict[str, NodeInfo] = {}
    left = list(nodes)
    while left:
        able = [one for one in left if all(early in done for early in before[one])]
        if not able:
            faults.add(entry, f"{what}: a cycle: {' -> '.join(_cycle(left, before))}")
            able = left
        for one in able:
            known = {early: nbytes for early, nbytes in before[one].items() if early in done or able is not left}
            done[one] = NodeInfo(one, nodes[one], tuple(known), tuple(known.values()))
        left = [one for one in left if one not in done]
    return tuple(done.values())


def _cycle(left: list[str], before: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A way from a node back to itself, along the edges."""
    path, node = [], left[0]
    while node not in path:
        path.append(node)
        node = next(early for early in before[node] if early in left)
    circle = path[path.index(node) :][::-1]
    first = min(range(len(circle)), key=lambda n: left.index(circle[n]))
    circle = circle[first:] + circle[:first]
    return [*circle, circle[0]]
