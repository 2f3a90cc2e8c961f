"""Every convention by which a model is found, one sample file each."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

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


def source(folder: Path, *lines: str) -> str:
    path = folder / "net.py"
    path.write_text("import torch\nfrom torch import nn\n" + "\n".join(lines) + "\n")
    return str(path)


FORWARD = "    def forward(self, x): return x"


def module(name: str, init: str = "", base: str = "nn.Module") -> str:
    body = f"    def __init__(self{', ' if init else ''}{init}): super().__init__()\n" if init else ""
    return f"class {name}({base}):\n{body}{FORWARD}"


class TestCandidates:
    """What a file is about is found without constructing anything else in it."""

    def test_nothing_but_the_model_is_constructed(self, tmp_path: Path) -> None:
        made = "class {0}(nn.Module):\n    def __init__(self): super().__init__(); print('made {0}'){1}\n" + FORWARD
        path = source(
            tmp_path,
            made.format("Download", "; raise OSError('no network')"),
            made.format("FocalLoss", ""),
            made.format("Net", "; self.part = Download"),
            "x = torch.ones(2)",
        )
        assert find_model(path).attr == "Net"

    @pytest.mark.parametrize(
        ("lines", "chosen"),
        [
            ([module("Block", "width"), module("Net") + "\n    def part(self): return Block(3)"], "Net"),
            ([module("Base"), module("Net", base="Base")], "Net"),
            ([module("Block"), "def layer(): return Block()", module("Net") + "\n    part = lambda s: layer()"], "Net"),
            ([module("Block"), "KINDS = {'a': Block}", module("Net") + "\n    part = lambda s: KINDS['a']()"], "Net"),
            ([module("DiceLoss"), module("Net")], "Net"),
            ([module("OnlyLoss")], "OnlyLoss"),
        ],
    )
    def test_parts_bases_and_losses_are_not_what_a_file_is_about(
        self, tmp_path: Path, lines: list[str], chosen: str
    ) -> None:
        assert find_model(source(tmp_path, *lines, "x = torch.ones(2)")).attr == chosen

    def test_a_small_one_that_can_be_made_is_no_better_than_a_large_one_that_cannot(self, tmp_path: Path) -> None:
        path = source(tmp_path, module("Flatten"), module("BigNet", "width"), "x = torch.ones(2)")
        with pytest.raises(ModelFileError, match="holds more than one model") as caught:
            find_model(path)
        for name in ("Flatten", "BigNet"):
            assert f"python -m djinn_fx.explain {path}:{name}\n" in str(caught.value)

    def test_all_are_listed_the_likely_ones_first(self, tmp_path: Path) -> None:
        path = source(tmp_path, module("ALoss"), module("Two"), module("Three"), "x = torch.ones(2)")
        with pytest.raises(ModelFileError) as caught:
            find_model(path)
        text = str(caught.value)
        assert text.index(":Two\n") < text.index(":Three\n") < text.index(":ALoss\n")

    def test_torchscript_is_told_apart(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="net is TorchScript"):
            find_model(source(tmp_path, "net = torch.jit.script(nn.Linear(2, 2))", "x = torch.ones(2)"))


def test_an_entry_made_for_us_goes_first(tmp_path: Path) -> None:
    lines = [module("Net"), "def djinn_entry(): return Net(), {'x': torch.ones(2)}", "model = nn.Linear(3, 3)"]
    found = find_model(source(tmp_path, *lines))
    assert (found.attr, found.rule, list(found.kwargs)) == ("djinn_entry", "djinn_entry()", ["x"])


class TestWithoutValues:
    """Sizes and types alone: no memory for weights, and the same model otherwise."""

    @pytest.mark.parametrize("name", ["kernelbench.py", "torchbench.py", "one_instance.py", "several.py:small.decoder"])
    def test_the_same_model_and_inputs_with_tensors_that_have_no_values(self, name: str) -> None:
        real, fake = find(name), find_model(str(MODELS / name), fake=True)
        assert (fake.attr, fake.rule) == (real.attr, real.rule)
        assert isinstance(real.module, nn.Module)
        assert isinstance(fake.module, nn.Module)
        tensors = [*fake.module.parameters(), *fake.module.buffers(), *fake.args]
        assert all(isinstance(one, FakeTensor) and one.device.type == "cpu" for one in tensors)
        forms = [[(name, p.shape, p.dtype, p.requires_grad) for name, p in one.named_parameters()]
                 for one in (real.module, fake.module)]  # fmt: skip
        assert forms[0] == forms[1]
        with fake.values_aside():
            assert isinstance(run(fake), FakeTensor)

    def test_weights_that_were_one_stay_one_and_take_no_memory(self, tmp_path: Path) -> None:
        path = source(
            tmp_path,
            "class Net(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            "        self.first = nn.Linear(64, 64).half()",
            "        self.last = nn.LSTM(64, 64)",
            "        nn.init.trunc_normal_(self.first.weight)",
            "        self.other = nn.Linear(64, 64)",
            "        self.other.weight = self.first.weight",
            "    def forward(self, x): return self.last(self.other(x).float())[0]",
            "x = torch.ones(2, 64, dtype=torch.half)",
        )
        found = find_model(path, fake=True)
        assert isinstance(found.module, nn.Module)
        assert found.module.get_submodule("first").weight is found.module.get_submodule("other").weight
        assert found.faker is not None
        assert found.faker.nbytes == sum(p.nbytes for p in found.module.parameters()) + 2 * 64 * 2

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("fake", [False, True])
    def test_a_gpu_in_a_file_is_the_device_it_is_explained_for(self, tmp_path: Path, fake: bool) -> None:
        path = source(
            tmp_path,
            "device = torch.device('cuda')",
            "model = nn.Linear(2, 2).cuda().to('cuda:0').to(device, torch.half)",
            "def get_inputs(): return [torch.ones(1, 2, device='cuda', dtype=torch.half)]",
        )
        found = find_model(path, fake=fake)
        assert isinstance(found.module, nn.Module)
        assert [(p.device.type, p.dtype) for p in found.module.parameters()] == [("cpu", torch.half)] * 2
        assert found.args[0].device.type == "cpu"

    def test_torch_is_as_before(self) -> None:
        usual = nn.Module.register_parameter
        find_model(str(MODELS / "one_class.py"), fake=True)
        assert nn.Module.register_parameter is usual
        assert not isinstance(nn.Linear(2, 2).weight, FakeTensor)
