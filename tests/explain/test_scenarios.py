"""Models that are called in more than one way, found by their conventions and given by size and type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from djinn_fx.errors import ModelFileError, SettingsError
from djinn_fx.explain.command import main
from djinn_fx.explain.finding.model import FoundModel, Rung, find_model, find_scenarios
from djinn_fx.explain.finding.typed import read_typed_input

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, size=4):
        super().__init__()
        self.linear = nn.Linear(size, size)
    def forward(self, x, scale=1.0):
        return self.linear(x) * scale
"""
PAIRS = "    return {'small': (Net(), [torch.ones(2, 4)]), 'large': (Net(8), {'x': torch.ones(64, 8)})}\n"
CASES = """
class Sum(nn.Module):
    def forward(self, x, y):
        return x + y
TESTCASES = [
    (Net, lambda: ([], {'size': 8}), lambda: ([torch.rand(2, 8)], {}), True),
    (Sum, lambda: ([], {}), lambda: ([torch.rand(3), torch.rand(3)], {}), False),
    (Net, lambda: ([4], {}), lambda: ([torch.rand(5, 4)], {'scale': 2.0}), True),
]
"""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shapes(found: FoundModel) -> list[tuple[int, ...]]:
    """The sizes of the tensors that it is called with."""
    return [tuple(one.shape) for one in (*found.args, *found.kwargs.values()) if isinstance(one, torch.Tensor)]


def scenarios(source: str, spec: str = "net.py") -> dict[str, FoundModel]:
    Path("net.py").write_text(NET + source)
    return {one.scenario: one for one in find_scenarios(spec, fake=True)}


@pytest.mark.parametrize(
    ("entry", "sizes"),
    [
        ("    return Net(), [torch.ones(2, 4)]\n", {"": [(2, 4)]}),
        ("    return Net(), {'x': torch.ones(2, 4), 'scale': 2.0}\n", {"": [(2, 4)]}),
        (PAIRS, {"small": [(2, 4)], "large": [(64, 8)]}),
        ("    return Net(), {'a': [torch.ones(1, 4)], 'b': [torch.ones(9, 4)]}\n", {"a": [(1, 4)], "b": [(9, 4)]}),
        (
            "    return {'a': torch.ones(1, 4), 'b': {'x': torch.ones(9, 4)}}\nmodel = Net()\n",
            {"a": [(1, 4)], "b": [(9, 4)]},
        ),
        ("    return (lambda x: x + 1), [torch.ones(3)]\n", {"": [(3,)]}),
    ],
)
def test_what_an_entry_may_give(entry: str, sizes: dict[str, list[tuple[int, ...]]]) -> None:
    found = scenarios(f"def djinn_entry():\n{entry}")
    assert {name: shapes(one) for name, one in found.items()} == sizes
    assert all(one.attr == "djinn_entry" and one.rung is Rung.REGISTERED for one in found.values())


def test_one_scenario_is_chosen_by_its_name() -> None:
    (one,) = scenarios(f"def djinn_entry():\n{PAIRS}", "net.py:large").values()
    assert (shapes(one), one.scenario, one.attr) == ([(64, 8)], "", "large")


def test_other_commands_take_the_first() -> None:
    Path("net.py").write_text(f"{NET}def djinn_entry():\n{PAIRS}")
    assert find_model("net.py").scenario == "small"


def test_a_list_of_test_cases_is_one_scenario_each() -> None:
    found = scenarios(CASES)
    assert list(found) == ["Net#1", "Sum", "Net#2"]
    assert [type(one.module).__name__ for one in found.values()] == ["Net", "Sum", "Net"]
    assert shapes(found["Net#1"]) == [(2, 8)]
    assert found["Net#2"].kwargs == {"scale": 2.0}


def test_a_class_of_the_list_is_made_as_the_list_says() -> None:
    source = CASES.replace("class Sum(nn.Module):", "class Wide(Net):\n    pass\nclass Sum(nn.Module):")
    (one,) = scenarios(source.replace("(Net, lambda: ([4]", "(Wide, lambda: ([4]"), "net.py:Wide").values()
    assert shapes(one) == [(5, 4)]


@pytest.mark.parametrize(
    "listed",
    [
        "test_cases = [{'name': 'a', 'model': Net(), 'inputs': [torch.ones(2, 4)]}]\n",
        "test_cases = [('a', Net, [torch.ones(2, 4)])]\n",
        "test_cases = {'a': (Net(), [torch.ones(2, 4)])}\n",
        "def get_test_cases():\n    return [{'module': Net, 'args': torch.ones(2, 4), 'kwargs': {'scale': 2.0}}]\n",
    ],
)
def test_the_forms_of_a_case(listed: str) -> None:
    (one,) = scenarios(listed).values()
    assert shapes(one) == [(2, 4)]


def test_too_many_cases_are_listed_with_a_command_each() -> None:
    listed = "TESTCASES = [(f'case{i}', Net, [torch.ones(i + 1, 4)]) for i in range(13)]\n"
    with pytest.raises(ModelFileError, match="13 cases") as caught:
        scenarios(listed)
    assert "    python -m djinn_fx.explain net.py:case12\n" in str(caught.value)
    (one,) = scenarios(listed, "net.py:case12").values()
    assert shapes(one) == [(13, 4)]


def test_other_lists_are_no_test_cases() -> None:
    (one,) = scenarios("cases = [1, 2]\nmodel = Net()\nx = torch.ones(2, 4)\n").values()
    assert one.scenario == ""


def test_a_module_by_its_import_path() -> None:
    Path("room").mkdir()
    Path("room/__init__.py").write_text("")
    Path("room/nets.py").write_text(NET + "x = torch.ones(3, 4)\n")
    (one,) = find_scenarios("room.nets:Net", fake=True)
    assert (shapes(one), one.file, one.attr) == ([(3, 4)], "room.nets", "Net")
    with pytest.raises(ModelFileError, match=r"room\.other: there is no such module or file"):
        find_scenarios("room.other:Net")
    with pytest.raises(ModelFileError, match="defines no 'net'; did you mean 'Net'"):
        find_scenarios("room.nets:net")


@pytest.mark.parametrize(
    ("text", "name", "shown", "shape"),
    [
        ("x:batch=1..8x512:int64", "x", "int64[batch=1..8, 512]", (8, 512)),
        ("8x512:float16", None, "float16[8, 512]", (8, 512)),
        ("x:3", "x", "float32[3]", (3,)),
        ("x::bool", "x", "bool[]", ()),
        ("2..4xmax=7:complex64", None, "complex64[2..4, max=7]", (4, 7)),
    ],
)
def test_inputs_by_size_and_type(text: str, name: str | None, shown: str, shape: tuple[int, ...]) -> None:
    read = read_typed_input(text)
    assert (read.name, str(read)) == (name, shown)
    made = read.make()
    assert (tuple(made.shape), made.dtype) == (shape, read.dtype)


@pytest.mark.parametrize("text", ["x:8by512", "x:8x512:int63", "x:4..2", "a:b:c:d", "8x", "x:-1"])
def test_inputs_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SettingsError, match="--input "):
        read_typed_input(text)


def test_a_size_that_varies_is_a_symbol_of_the_graph(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(NET)
    inputs = {}
    for text in ("x:8x4", "x:n=2..8x4"):
        assert main(["net.py", "--input", text, "--json", "-"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["scenarios"]
        inputs[one["inputs"][0]] = one["graphs"][0]["regions"][0]["inputs"]
    assert inputs == {"x: float32[8, 4]": 3, "x: float32[n=2..8, 4]": 4}


def test_inputs_that_do_not_fit_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(NET)
    assert main(["net.py", "--input", "y:3x4"]) == 2
    assert "--input does not fit Net.forward(x, scale=1.0)" in capsys.readouterr().err


def test_a_constructor_that_computes_with_its_weights_is_made_under_fake_tensors() -> None:
    body = "model = Net()\nmodel.register_buffer('norm', model.linear.weight.detach() + torch.ones(4, 4))\n"
    (one,) = scenarios(f"{body}x = torch.ones(2, 4)\n").values()
    assert one.rung is Rung.CONSTRUCTED
    assert one.faker is not None
    assert one.faker.nbytes >= 2 * 4 * 4 * 4


def test_cuda_in_a_file_means_the_described_device(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here, which the file then means")
    body = "        x = x.cuda() + torch.zeros(4, device='cuda')\n        torch.cuda.synchronize()\n"
    source = NET.replace("        return", f"{body}        return")
    Path("net.py").write_text(f"{source}model = Net().to('cuda')\nx = torch.ones(2, 4, device='cuda:0')\n")
    for words in ([], ["--real", "--option", "engine=eager"]):
        assert main(["net.py", "--json", "-", *words]) == 0
        (graph,) = json.loads(capsys.readouterr().out)["scenarios"][0]["graphs"]
        assert [region["device"] for region in graph["regions"]] == ["cpu"]


def test_one_that_fails_leaves_the_others_their_report(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(NET + CASES.replace("torch.rand(5, 4)", "torch.rand(5, 3)"))
    assert main(["net.py", "--json", "-"]) == 4
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["scenarios"]}
    assert [name for name, one in found.items() if one["failed"]] == ["Net#2"]
    assert "net.py:9: RuntimeError" in found["Net#2"]["failed"]
    assert len(found["Sum"]["graphs"]) == 1


class TestTransformers:
    """``--hf``."""

    SMALL = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=2,vocab_size=64"

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("transformers")

    def test_a_decoder_is_prefilled_and_decodes(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = f"llama:{self.SMALL},num_key_value_heads=1,tokens=16"
        assert main(["--hf", text, "--json", "-"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["model"]["name"] == "LlamaForCausalLM"
        assert [(one["name"], one["rung"]) for one in data["scenarios"]] == [("prefill", 1), ("decode", 1)]
        assert [one["graphs"][0]["phase"] for one in data["scenarios"]] == ["prefill", "decode"]
        assert [one["inputs"][0] for one in data["scenarios"]] == ["input_ids: int64[1, 16]", "input_ids: int64[1, 1]"]

    def test_a_cache_does_not_grow_from_one_timed_call_to_the_next(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = f"llama:{self.SMALL},num_key_value_heads=1,tokens=16"
        assert main(["--hf", text, "--real", "--option", "engine=eager", "--json", "-"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert [len(one["graphs"]) for one in data["scenarios"]] == [1, 1]
        assert [one["check"]["equal"] for one in data["run"]["scenarios"]] == [True, True]

    def test_an_encoder_is_called_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--hf", f"bert:{self.SMALL},batch=2", "--json", "-"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["scenarios"]
        assert (one["model"], one["inputs"]) == ("BertForMaskedLM", ["input_ids: int64[2, 128]"])
        assert one["graphs"][0]["phase"] == "encode"

    @pytest.mark.parametrize(
        ("text", "sizes"),
        [
            (
                "ViTModel:hidden_size=32,intermediate_size=64,num_hidden_layers=1,num_attention_heads=2,image_size=32",
                [[(1, 3, 32, 32)]],
            ),
            (
                "whisper:d_model=64,encoder_layers=1,decoder_layers=1,max_source_positions=50,num_mel_bins=8"
                + "".join(f",{side}_attention_heads=2,{side}_ffn_dim=64" for side in ("encoder", "decoder")),
                [[(1, 8, 100), (1, 1)], [(1, 1)]],
            ),
            (
                "t5:d_model=32,d_kv=16,d_ff=64,num_layers=1,num_heads=2,vocab_size=64,tokens=8",
                [[(1, 8), (1, 1)], [(1, 1)]],
            ),
        ],
    )
    def test_inputs_are_those_of_its_kind(self, text: str, sizes: list[list[tuple[int, ...]]]) -> None:
        from djinn_fx.explain.finding.transformers_config import find_transformer

        assert [shapes(one) for one in find_transformer(text, fake=True)] == sizes

    @pytest.mark.parametrize(
        ("text", "code", "says"),
        [
            ("lama", 3, "no architecture or model 'lama'; did you mean 'llama'"),
            ("llama:hiden_size=3", 3, "LlamaConfig has no 'hiden_size'; did you mean 'hidden_size'"),
            ("llama:hidden_size", 2, "write it as llama:key=value"),
            ("llama:tokens=0", 2, "tokens is a number from 1"),
        ],
    )
    def test_what_it_cannot_make(self, capsys: pytest.CaptureFixture[str], text: str, code: int, says: str) -> None:
        assert main(["--hf", text]) == code
        assert says in capsys.readouterr().err
