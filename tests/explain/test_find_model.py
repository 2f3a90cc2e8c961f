"""Every convention by which a model is found, one sample file each."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from djinn_fx.errors import ModelFileError
from djinn_fx.explain.finding.model import FoundModel, find_model

MODELS = Path(__file__).parent / "models"


def find(name: str) -> FoundModel:
    return find_model(str(MODELS / name))


def run(found: FoundModel) -> object:
    with torch.no_grad():
        return found.module(*found.args, **found.kwargs)


@pytest.mark.parametrize(
    ("name", "attr", "rule"),
    [
        ("get_model_and_inputs.py", "get_model", "get_model(); inputs from example_inputs"),
        ("model_and_callable_inputs.py", "model", "model, an nn.Module; inputs from get_example_inputs()"),
        ("kernelbench.py", "Model", "Model made with get_init_inputs(); inputs from get_inputs()"),
        (
            "init_kwargs.py",
            "Attention",
            "the one model: Attention made with get_init_inputs(); inputs from get_inputs()",
        ),
        ("torchbench.py", "Model", "the one model: Model.get_module()"),
        ("one_instance.py", "net", "the one model: net, an nn.Module; inputs from module-level x"),
        (
            "one_class.py",
            "Net",
            "the one model: Net(), an nn.Module class; inputs from module-level features, named like the parameters",
        ),
        (
            "lightning_like.py",
            "LitNet",
            "the one model: LitNet(), an nn.Module class; inputs from LitNet.example_input_array",
        ),
    ],
)
def test_a_convention_hits_says_so_and_gives_a_model_that_runs(name: str, attr: str, rule: str) -> None:
    found = find(name)
    assert (found.attr, found.rule) == (attr, rule)
    assert isinstance(found.module, nn.Module)
    assert run(found) is not None


def test_inputs_are_read_as_the_user_means_them() -> None:
    assert list(find("get_model_and_inputs.py").kwargs) == ["scale"]
    assert sorted(find("model_and_callable_inputs.py").kwargs) == ["x", "y"]
    given = find("init_kwargs.py")
    assert (len(given.args), given.kwargs) == (1, {"need_weights": False})


def test_a_compiled_module_is_unwrapped() -> None:
    assert type(find("model_and_callable_inputs.py").module).__name__ == "Net"


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("hf_decoder.py", "LlamaForCausalLM.dummy_inputs"), ("hf_image.py", "the image size in the model's config")],
)
def test_transformers_models_need_no_inputs_in_the_file(name: str, inputs: str) -> None:
    pytest.importorskip("transformers")
    found = find(name)
    assert found.rule == f"model, an nn.Module; inputs from {inputs}"
    assert run(found) is not None


@pytest.mark.parametrize(
    ("attr", "kind", "rule"),
    [
        ("small", "Small", "small, an nn.Module; inputs from get_inputs()"),
        ("Small", "Small", "Small(), an nn.Module class; inputs from get_inputs()"),
        ("make", "Linear", "make(); inputs from get_inputs()"),
        ("scaled", "function", "scaled, a function; inputs from get_inputs()"),
        ("partial", "partial", "partial, a function; inputs from get_inputs()"),
        ("Tools.model", "Linear", "Tools.model, an nn.Module; inputs from get_inputs()"),
        ("small.decoder", "Linear", "small.decoder; inputs from what it gets when small runs with get_inputs()"),
    ],
)
def test_an_explicit_attribute(attr: str, kind: str, rule: str) -> None:
    found = find(f"several.py:{attr}")
    assert (type(found.module).__name__, found.rule, found.attr) == (kind, rule, attr)
    assert run(found) is not None


def test_explicit_class_of_a_kernelbench_file_gets_its_init_inputs() -> None:
    assert type(find("kernelbench.py:ModelNew").module).__name__ == "ModelNew"


def test_part_of_a_model_gets_the_inputs_it_has_inside() -> None:
    assert find("several.py:small.decoder").args[0].shape == (2, 8)


def test_several_models_are_listed_as_commands() -> None:
    path = MODELS / "several.py"
    with pytest.raises(ModelFileError) as caught:
        find_model(str(path))
    assert str(caught.value) == (
        f"{path}: holds more than one model; choose one:\n\n"
        f"    python -m djinn_fx.explain {path}:small\n"
        f"    python -m djinn_fx.explain {path}:large\n"
    )


@pytest.mark.parametrize(
    ("attr", "message"),
    [
        ("smal", "did you mean 'small'?; choose one:"),
        ("numbers", "numbers is a list, not a model"),
        ("nothing", "nothing() returned None"),
        ("small.encode", "several.py:small has no attribute 'encode'"),
        ("Tools", "Tools is a class, but not of nn.Module"),
    ],
)
def test_an_explicit_attribute_that_is_no_model(attr: str, message: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        find(f"several.py:{attr}")
    assert message in str(caught.value)


def test_loading_leaves_nothing_behind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("WIDTH = 3\n")
    (tmp_path / "net.py").write_text(
        "import sys, torch\n"
        "from helper import WIDTH\n"
        "print('loaded', sys.argv)\n"
        "model = torch.nn.Linear(WIDTH, 1)\n"
        "x = torch.ones(2, WIDTH)\n"
        "if __name__ == '__main__':\n"
        "    raise RuntimeError('a script')\n"
    )
    path, argv = list(sys.path), list(sys.argv)
    find_model(str(tmp_path / "net.py"))
    printed = capsys.readouterr()
    assert (sys.path, sys.argv) == (path, argv)
    assert printed.out == ""
    assert printed.err == f"loaded ['{tmp_path / 'net.py'}']\n"
    assert list(tmp_path.glob("__pycache__/net.*")) == []


def test_objects_of_the_file_can_be_pickled(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import torch\n"
        "@dataclass\n"
        "class Config:\n"
        "    width: int = 3\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(Config().width, 1)\n"
        "        self.config = Config()\n"
        "x = torch.ones(2, 3)\n"
    )
    found = find_model(str(tmp_path / "net.py"))
    copy = pickle.loads(pickle.dumps(found.module))
    assert copy.config == found.module.config  # type: ignore[attr-defined]


def test_a_file_in_a_package_may_use_relative_imports(tmp_path: Path) -> None:
    package = tmp_path / "zoo_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "width.py").write_text("WIDTH = 3\n")
    (package / "net.py").write_text(
        "import torch\nfrom .width import WIDTH\nmodel = torch.nn.Linear(WIDTH, 1)\nx = torch.ones(2, WIDTH)\n"
    )
    assert run(find_model(str(package / "net.py"))) is not None


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        ("torch.ones(1)", 1, []),
        ("[torch.ones(1), torch.ones(1)]", 2, []),
        ("{'x': torch.ones(1), 'options': {}}", 0, ["options", "x"]),
        ("[[torch.ones(1)], {'options': {}}]", 1, ["options"]),
        ("[torch.ones(1), {'options': {}}]", 1, ["options"]),
        ("[torch.ones(1), {'other': 1}]", 2, []),
        ("[[torch.ones(1)], {}]", 1, []),
    ],
)
def test_forms_of_inputs(tmp_path: Path, inputs: str, args: int, kwargs: list[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x, options=None):\n"
        "        return x\n"
        f"example_inputs = {inputs}\n"
    )
    found = find_model(str(tmp_path / "net.py"))
    assert (len(found.args), sorted(found.kwargs)) == (args, kwargs)


def test_a_dict_that_is_one_argument_stays_one(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, batch):\n"
        "        return batch['pixels']\n"
        "example_inputs = {'pixels': torch.ones(1)}\n"
    )
    assert "pixels" in find_model(str(tmp_path / "net.py")).args[0]
