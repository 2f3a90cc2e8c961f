"""Workflows as ComfyUI's API form writes them: nodes by number, inputs that name another node and one of its outputs.

A node runs a model if one of its inputs comes, through nodes that only hand on, from a loader: that model is named by
the file that the loader loads. Other nodes (saving, sizes, texts) take no time and are left out; what passed through
them goes straight from model to model. The configuration must know each file by its name, with or without its ending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from djinn_fx.deploy.reading.config import read_file
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.workload import Config, ModelInfo, NodeInfo
from djinn_fx.errors import did_you_mean
from djinn_fx.hardware.yaml_places import Entry

#: Inputs of loaders that name a file.
FILES = (
    "ckpt_name", "unet_name", "clip_name", "vae_name", "control_net_name", "style_model_name", "model_name",
    "clip_name1", "gguf_name",
)  # fmt: skip
#: Inputs through which a node is given what it computes with, the one that takes longest first.
MODELS = ("model", "control_net", "clip", "vae", "clip_vision", "style_model", "upscale_model")


def with_comfyui(config: Config, paths: Iterable[Path], faults: Faults) -> Config:
    """A configuration with ComfyUI's workflows added, each named as its file."""
    workflows = dict(config.workflows)
    for path in paths:
        if path.stem in workflows:
            faults.add(str(path), f"there is a workflow {path.stem!r} already")
        workflows[path.stem] = read_comfyui(path, config.models, faults)
    return replace(config, workflows=workflows)


def read_comfyui(path: Path, models: Mapping[str, ModelInfo], faults: Faults) -> tuple[NodeInfo, ...]:
    """The nodes of one workflow that run models; what is wrong is added to the faults.

    Raises:
        SettingsError: it is no JSON.
    """
    top = read_file(path, "a workflow")
    nodes = top.mapping("a workflow of ComfyUI's") if top is not None else {}
    if not nodes or not all(isinstance(one.value, dict) and "class_type" in one.value for one in nodes.values()):
        faults.add(str(path), "no workflow in ComfyUI's API form (export it by `Save (API Format)`)")
        return ()
    reader = _Reader(nodes, models, faults)
    found = reader.ordered()
    if not found and not faults.found:
        faults.add(str(path), "no node runs a model that a loader loads")
    return found


class _Reader:
    def __init__(self, nodes: Mapping[str, Entry], models: Mapping[str, ModelInfo], faults: Faults) -> None:
        self.nodes, self.models, self.faults = nodes, models, faults
        self.inputs = {name: self._inputs(one) for name, one in nodes.items()}
        self.sources = {name: self._sources(name) for name in nodes}
        self.runs = {name: model for name in nodes if (model := self._model(name)) is not None}

    def _inputs(self, entry: Entry) -> dict[str, Entry]:
        inputs = entry.value.get("inputs")
        return inputs.mapping("inputs") if inputs is not None else {}

    def _sources(self, name: str) -> dict[str, str]:
        """The node that each linked input comes from."""
        found = {}
        for key, entry in self.inputs[name].items():
            link = entry.plain
            if isinstance(link, list) and len(link) == 2 and isinstance(link[0], str) and isinstance(link[1], int):
                if link[0] in self.nodes:
                    found[key] = link[0]
                else:
                    hint = did_you_mean(link[0], self.nodes)
                    self.faults.add(
                        entry, f"node {name!r}: input {key!r} comes from {link[0]!r}, which is no node{hint}"
                    )
        return found

    def _file(self, name: str) -> Entry | None:
        """What a loader loads."""
        inputs = self.inputs[name]
        found = next((inputs[key] for key in FILES if key in inputs and isinstance(inputs[key].value, str)), None)
        return found if found is not None and not any(key in self.sources[name] for key in MODELS[:1]) else None

    def _model(self, name: str) -> str | None:
        """The model that a node runs: what its most demanding input leads to."""
        if self._file(name) is not None:
            return None
        for key in MODELS:
            if key in self.sources[name]:
                file = self._loaded(self.sources[name][key], key, set())
                return self._known(file) if file is not None else None
        return None

    def _loaded(self, name: str, key: str, seen: set[str]) -> Entry | None:
        """The file behind an input, through nodes that hand it on."""
        if name in seen:
            return None
        file = self._file(name)
        if file is not None or key not in self.sources[name]:
            return file
        return self._loaded(self.sources[name][key], key, seen | {name})

    def _known(self, file: Entry) -> str:
        name = str(file.value)
        stem = Path(name.replace("\\", "/")).name
        for one in (name, stem, Path(stem).stem):
            if one in self.models:
                return one
        self.faults.add(file, f"the configuration has no model {stem!r}{did_you_mean(Path(stem).stem, self.models)}")
        return next(iter(self.models), "")

    def _before(self, name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        """Nodes with models whose results a node waits for, through those without."""
        found: set[str] = set()
        for source in self.sources[name].values():
            if source in seen:
                continue
            found |= {source} if source in self.runs else self._before(source, seen | {name})
        return found - {name}

    def ordered(self) -> tuple[NodeInfo, ...]:
        """Nodes with models, each after those that it waits for."""
        before = {name: self._before(name) for name in self.runs}
        found: list[NodeInfo] = []
        done: set[str] = set()
        while len(done) < len(before):
            able = [name for name in before if name not in done and before[name] <= done]
            if not able:
                names = " -> ".join(name for name in before if name not in done)
                self.faults.add(self.nodes[next(n for n in before if n not in done)], f"a cycle among {names}")
                return tuple(found)
            for name in able:
                early = tuple(sorted(before[name]))
                found.append(NodeInfo(name, self.runs[name], early, (0,) * len(early)))
                done.add(name)
        return tuple(found)
