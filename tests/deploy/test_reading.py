"""Configurations and requests are read as they stand; all that is wrong with them is one error with its places."""

from __future__ import annotations

import copy
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from djinn_fx.deploy.reading.comfyui import read_comfyui
from djinn_fx.deploy.reading.config import read_config
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.muxserve import is_muxserve, read_muxserve, requests_at_rates
from djinn_fx.deploy.reading.requests import read_requests
from djinn_fx.deploy.reading.workload import ModelInfo, Workload
from djinn_fx.errors import SettingsError
from tests.deploy.files import CONFIG, TIMES, requests, write

DATA = Path(os.environ.get("DJINN_BENCH_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
WORKFLOWS = DATA / "deploy" / "workflows"


def read(config: Path, asked: Path, **more: Any) -> Workload:
    faults = Faults()
    return read_requests(asked, read_config(config, faults), faults, **more)


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_what_is_read_is_what_was_written(tmp_path: Path, ending: str) -> None:
    asked = requests()
    found = read(
        write(tmp_path / f"c.{ending}", CONFIG), write(tmp_path / f"r.{ending}", {"metadata": {}, "requests": asked})
    )
    assert found.model_names == ("writer", "judge", "painter")
    assert found.requests == tuple(one["request_id"] for one in asked)
    assert found.traffic.arrival.tolist() == [10.0 * n for n in range(12)]
    assert found.traffic.times[:6].tolist() == [*TIMES["illustrate"].values(), *TIMES["debate"].values()]
    writer, judge = found.config.models["writer"], found.config.models["judge"]
    assert (writer.memory, writer.expected_s, judge.gang, judge.expected_s) == (15 * 10**9, 8.0, 4, 40.0)
    assert [one.before for one in found.config.workflows["debate"]] == [(), ("plan",), ("plan",), ("view_a", "view_b")]
    assert found.config.workflows["illustrate"][1].nbytes == (1000,)


def test_requests_are_sorted_by_arrival_with_their_times(tmp_path: Path) -> None:
    asked = requests(5)
    shuffled = [asked[n] for n in (3, 0, 4, 2, 1)]
    one = read(write(tmp_path / "c.json", CONFIG), write(tmp_path / "r.json", asked))
    other = read(write(tmp_path / "c.json", CONFIG), write(tmp_path / "s.yaml", shuffled))
    assert one.requests == other.requests
    for name in ("arrival", "workflow", "first", "times"):
        assert getattr(one.traffic, name).tolist() == getattr(other.traffic, name).tolist()


def test_nodes_may_stand_in_any_order(tmp_path: Path) -> None:
    config = copy.deepcopy(CONFIG)
    config["workflows"]["debate"]["nodes"].reverse()
    faults = Faults()
    nodes = read_config(write(tmp_path / "c.yaml", config), faults).workflows["debate"]
    assert nodes[0].name == "plan"
    assert nodes[-1].name == "verdict"
    assert faults.found == []


@pytest.mark.skipif(not WORKFLOWS.is_dir(), reason="data/deploy/workflows is not here")
def test_the_five_faults_of_the_published_files_are_one_error() -> None:
    with pytest.raises(SettingsError) as told:
        read(WORKFLOWS / "bad_config.json", WORKFLOWS / "bad_requests.yaml")
    lines = str(told.value).splitlines()
    assert len(lines) == len(json.loads((WORKFLOWS / "bad_faults.json").read_text()))
    text = str(told.value)
    assert "output of 'merge'" in text
    assert "read_code -> judge -> read_code" in text
    assert "did you mean 'painter_xl'" in text
    assert "'req_00004': node_execution_times lacks the node 'judge'" in text
    assert "'req_00000' has no timestamp" in text


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        *way, last = path.split(".")
        for key in way:
            config = config[int(key) if key.isdigit() else key]
        config[int(last) if last.isdigit() else last] = value

    return change


BAD_CONFIGS = {
    "memory_gb must be a number of at least 0": _set("models.writer.memory_gb", -1),
    "gpus_required must be a number of at least 1": _set("models.writer.gpus_required", 0),
    "gpus_required must be a whole number": _set("models.writer.gpus_required", 1.5),
    "tokens_per_second is 0": _set("models.writer.tokens_per_second", 0),
    "unknown model 'wirter'; did you mean 'writer'": _set("workflows.illustrate.nodes.0.model", "wirter"),
    "names no model": _set("workflows.illustrate.nodes.0", {"id": "expand"}),
    "the node 'draw' is there twice": _set("workflows.illustrate.nodes.0.id", "draw"),
    "it is an output of 'expand', name that node": _set("workflows.illustrate.edges.0.from", "prompt"),
    "which is no node; did you mean 'draw'": _set("workflows.illustrate.edges.0.to", "drew"),
    "an edge has no 'to'": _set("workflows.illustrate.edges.0", {"from": "expand"}),
    "a cycle: draw -> draw": _set("workflows.illustrate.edges.0.from", "draw"),
    "has no nodes": _set("workflows.illustrate.nodes", []),
    "groups: unknown model 'painer'; did you mean 'painter'": _set("groups", [["painer", "writer"]]),
    "memory_gb must be 1e+09 at most": _set("models.writer.memory_gb", 1e300),
    "entry must be package.module:name, not 7": _set("models.writer.entry", 7),
    """unknown model "['writer']"; did you mean 'writer'""": _set("workflows.illustrate.nodes.0.model", ["writer"]),
    """an edge's 'from' is "['expand']", which is no node""": _set("workflows.illustrate.edges.0.from", ["expand"]),
    "expected whole numbers of at least 0": _set("models.writer.devices", [-1]),
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_a_bad_configuration_is_told_with_its_place(tmp_path: Path, message: str) -> None:
    config = copy.deepcopy(CONFIG)
    BAD_CONFIGS[message](config)
    path = write(tmp_path / "c.yaml", config)
    faults = Faults()
    read_config(path, faults)
    with pytest.raises(SettingsError) as told:
        faults.tell()
    line = next(one for one in str(told.value).splitlines() if message in one)
    assert line.startswith(f"{path}:")
    assert int(line[len(str(path)) + 1 :].split(":")[0]) > 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("models", {}), "there are no models"),
        (_set("workflows", {}), "there are no workflows"),
        (lambda config: config.update(workflow=config.pop("workflows")), "no workflows; did you mean 'workflow'?"),
    ],
)
def test_without_models_or_workflows_that_is_all_that_is_told(
    tmp_path: Path, change: Callable[[Any], object], told: str
) -> None:
    config = copy.deepcopy(CONFIG)
    change(config)
    with pytest.raises(SettingsError) as error:
        read(write(tmp_path / "c.json", config), write(tmp_path / "r.json", requests()))
    (line,) = str(error.value).splitlines()
    assert told in line


BAD_REQUESTS = {
    "takes -1; seconds": _set("1.node_execution_times.plan", -1),
    "takes 'soon'; seconds": _set("1.node_execution_times.plan", "soon"),
    "takes nan; seconds": _set("1.node_execution_times.plan", float("nan")),
    "takes True; seconds": _set("1.node_execution_times.plan", True),
    "lacks the node 'view_a'": _set("1.node_execution_times", {"plan": 1, "view_b": 1, "verdict": 1}),
    "has no node_execution_times": _set("1.node_execution_times", None),
    "is no node of workflow 'debate'; did you mean 'verdict'": _set("1.node_execution_times.verdit", 1.0),
    "unknown workflow 'debat'; did you mean 'debate'": _set("1.workflow_id", "debat"),
    "'req_0' is there twice": _set("1.request_id", "req_0"),
    "is no time such as": _set("1.timestamp", "noon"),
    "is a date with a time zone, earlier ones are a date without": _set("1.timestamp", "2026-03-02T09:00:10+01:00"),
    "is a number, earlier ones are a date": _set("1.timestamp", 12.5),
    "1e+300 is no time such as": _set("1.timestamp", 1e300),
    "takes 1e+300; seconds are wanted, 1e+09 at most": _set("1.node_execution_times.plan", 1e300),
    "has node_execution_times without nodes' names": _set("1.node_execution_times", [1, 2]),
    """unknown workflow ['debate']; did you mean 'debate'""": _set("1.workflow_id", ["debate"]),
    "has no timestamp": _set("1.timestamp", None),
    "must be keys and values": _set("1", 7),
}


@pytest.mark.parametrize("ending", ["json", "yaml"])
@pytest.mark.parametrize("message", BAD_REQUESTS)
def test_a_bad_request_is_told_with_its_line(tmp_path: Path, message: str, ending: str) -> None:
    asked = copy.deepcopy(requests(4))
    BAD_REQUESTS[message](asked)
    path = write(tmp_path / f"r.{ending}", {"requests": asked})
    with pytest.raises(SettingsError) as told:
        read(write(tmp_path / "c.json", CONFIG), path)
    (line,) = str(told.value).splitlines()
    assert message.lower() in line.lower()
    number = int(line[len(str(path)) + 1 :].split(":")[0])
    text = path.read_text().splitlines()
    first = next(n for n, one in enumerate(text, 1) if "req_2" in one)
    assert 2 <= number < first


def test_a_key_that_is_there_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"requests": [\n{"request_id": "a",\n "request_id": "b"}]}')
    with pytest.raises(SettingsError, match=r"r\.json:2: the key 'request_id' is there twice"):
        read(write(tmp_path / "c.json", CONFIG), path)


@pytest.mark.parametrize("text", ["[]", '{"requests": []}', '{"metadata": 1, "requests": [ ]}'])
def test_no_requests_are_refused(tmp_path: Path, text: str) -> None:
    for ending in ("json", "yaml"):
        (tmp_path / f"r.{ending}").write_text(text)
        with pytest.raises(SettingsError, match="there are no requests"):
            read(write(tmp_path / "c.json", CONFIG), tmp_path / f"r.{ending}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("requests: [!!python/object/apply:os.system [touch ran]]", "nothing in a file is executed"),
        ("requests: [!other {a: 1}]", "nothing in a file is executed"),
        ("requests: [*nothing]", "stands for nothing"),
        ("requests: [{a: 1, a: 2}]", "is there twice"),
        ("requests: [" + "[" * 60 + "]" * 60 + "]", "nested deeper"),
        ("other: 1", "no list of requests"),
        ("requests: [{a: 1}\nb", "no YAML"),
        ("7", "no list of requests"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(
    tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read(write(tmp_path / "c.json", CONFIG), path)
    assert not (tmp_path / "ran").exists()


def test_yaml_of_a_configuration_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text("models: !!python/object/apply:os.system [touch ran]")
    with pytest.raises(SettingsError, match=r"c\.yaml:1"):
        read_config(path, Faults())
    assert not (tmp_path / "ran").exists()


def test_aliases_of_earlier_requests_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "requests:\n"
        "- {timestamp: 0, workflow_id: illustrate, node_execution_times: &t {expand: 1, draw: 2.5}}\n"
        "- {timestamp: 3, workflow_id: illustrate, node_execution_times: *t}\n"
    )
    found = read(write(tmp_path / "c.json", CONFIG), path)
    assert found.traffic.times.tolist() == [1.0, 2.5, 1.0, 2.5]


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_long_file_is_read_as_a_stream(tmp_path: Path, ending: str) -> None:
    """More than is allowed is refused at the first one too many, and what follows is never read: here it is no text."""
    path = write(tmp_path / f"r.{ending}", requests(1500))
    with path.open("ab") as stream:
        stream.write(b"\xff" * 2**20)
    config = write(tmp_path / "c.json", CONFIG)
    with pytest.raises(SettingsError, match="more than 5 requests"):
        read(config, path, most=5)
    assert read(config, path, first=5).traffic.size == 5


def test_json_is_read_across_the_stream_s_pieces(tmp_path: Path) -> None:
    asked = requests(600)
    path = write(tmp_path / "r.json", {"a": list(range(30_000)), "requests": asked})
    assert read(write(tmp_path / "c.json", CONFIG), path).traffic.size == 600
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(SettingsError, match=r"r\.json:\d+"):
        read(write(tmp_path / "c.json", CONFIG), path)


def test_muxserves_models_become_workflows_of_one_node(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(
        "num_gpus: 4\nmodels:\n"
        "- {name: llm-0, model: huggyllama/llama-7b, tensor_parallel_size: 1, pipeline_parallel_size: 1, rate: 2.0,\n"
        "   model_dtype: fp16, inference_time_mean: 0.5}\n"
        "- {name: llm-1, model: huggyllama/llama-65b, tensor_parallel_size: 2, pipeline_parallel_size: 2, rate: 0.5,\n"
        "   token_mean: 300, tokens_per_second: 30}\n"
    )
    assert is_muxserve(path)
    assert not is_muxserve(write(tmp_path / "c.json", CONFIG))
    faults = Faults()
    config, rates = read_muxserve(path, faults)
    faults.tell()
    assert [(one.memory, one.gang, one.expected_s) for one in config.models.values()] == [
        (14 * 10**9, 1, 0.5),
        (130 * 10**9, 4, 10.0),
    ]
    found = requests_at_rates(config, rates, 600.0)
    assert found.traffic.size == pytest.approx(600 * 2.5, rel=0.1)
    assert found.traffic.times.sum() == pytest.approx(0.5 * 1200 + 10.0 * 300, rel=0.15)


COMFY = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/painter.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "x", "model": ["4", 0], "clip": ["4", 1]}},
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 5, "model": ["10", 0], "positive": ["6", 0], "latent_image": ["5", 0]},
    },
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
}


def test_comfyuis_nodes_run_what_their_loaders_load(tmp_path: Path) -> None:
    models = {"painter": ModelInfo("painter", 8)}
    faults = Faults()
    nodes = read_comfyui(write(tmp_path / "w.json", COMFY), models, faults)
    faults.tell()
    found = {one.name: one for one in nodes}
    assert {one.model for one in nodes} == {"painter"}
    assert set(found["8"].before) == {"3"}
    assert "6" in found["3"].before
    assert "9" not in found
    assert "5" not in found


def test_a_comfyui_workflow_of_unknown_files_or_nodes_is_told(tmp_path: Path) -> None:
    broken = copy.deepcopy(COMFY)
    broken["8"]["inputs"]["samples"] = ["33", 0]  # type: ignore[index]
    faults = Faults()
    read_comfyui(write(tmp_path / "w.json", broken), {"paintr": ModelInfo("paintr", 8)}, faults)
    text = "\n".join(faults.found)
    assert "'33', which is no node" in text
    assert "no model 'painter.safetensors'; did you mean 'paintr'" in text


@pytest.mark.parametrize("text", ["- request_id: ", '- {request_id: "', "# ", "- {request_id: |\n", "metadata: "])
def test_yaml_of_one_endless_value_is_refused_before_it_is_in_memory(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text + "x" * (20 * 2**20) + "\n")
    tracemalloc.start()
    with pytest.raises(SettingsError, match=r"r\.yaml(:\d+)?: "):
        read(write(tmp_path / "c.json", CONFIG), path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 * 2**20


def test_what_is_told_of_a_long_text_is_short(tmp_path: Path) -> None:
    asked = requests(2)
    asked[1] |= {"request_id": "x" * 100_000, "workflow_id": "y" * 100_000}
    with pytest.raises(SettingsError) as told:
        read(write(tmp_path / "c.json", CONFIG), write(tmp_path / "r.json", asked))
    assert len(str(told.value)) < 2_000
