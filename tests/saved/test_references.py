"""What a saved function refers to: found again in another process with empty caches, or refused when it is saved."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.errors import EngineError
from djinn_fx.saved.guards import saveable_guards

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
WORDS = {**SMALL, "vocab_size": 61}
#: Class, config and sizes of each family; docs/saved_functions.md lists them.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**WORDS, "num_key_value_heads": 1}),
    "bert": ("BertModel", "BertConfig", WORDS),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 61}),
    "t5": ("T5EncoderModel", "T5Config", {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "vocab_size": 61}),
    "vit": ("ViTModel", "ViTConfig", {**SMALL, "image_size": 16, "patch_size": 8}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**WORDS, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**WORDS, "num_key_value_heads": 1}),
    "opt": ("OPTForCausalLM", "OPTConfig", {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 61}),
}  # fmt: skip
#: Loads each file named on the command line, runs it, and prints how far it is from what was saved beside it.
LOADER = """
import sys, torch
from torch._dynamo.utils import counters
import tests.saved.test_references as t
for name, path in zip(sys.argv[1::2], sys.argv[2::2]):
    model, args = t.case(name)
    with torch.no_grad(), open(path, "rb") as file:
        got = torch.compiler.load_compiled_function(file)(model, *args)
    torch.testing.assert_close(t.first(got), torch.load(path + ".expected"))
    assert type(got) is type(model(*args)), type(got)
    print(name, counters["stats"]["unique_graphs"])
"""


#: Saves what is named on the command line, in a process of its own: Transformers keeps a register of all models that a
#: process has made, and torch puts down its order (docs/saved_functions.md).
SAVER = """
import sys, torch
from pathlib import Path
import tests.saved.test_references as t
from tests.saved.conftest import saving
with saving():
    for name, path in zip(sys.argv[2::2], sys.argv[3::2]):
        torch._dynamo.reset()
        t.save(name, Path(path), sys.argv[1])
"""


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


LIMIT = 3.0


class Split(nn.Module):
    """Answers with classes that are globals of this file."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Pair:
        return Pair(self.linear(x).clamp(max=LIMIT), x * 2)


class Ordered(nn.Module):
    """Answers with a class of a module that Dynamo gives a name of its own."""

    def forward(self, x: Tensor) -> Any:
        return collections.OrderedDict(a=x + 1, b=x * 2)


def case(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A seeded model and its arguments."""
    torch.manual_seed(3)
    own = {"split": Split, "ordered": Ordered}
    if name in own:
        return own[name]().eval(), (torch.randn(2, 4),)
    import transformers

    model, config, sizes = FAMILIES[name]
    made = getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()
    return made, (torch.randn(1, 3, 16, 16) if name == "vit" else torch.randint(61, (1, 8)),)


def first(output: Any) -> Tensor:
    """The first tensor of what a model gives."""
    found: Tensor = next(iter(output.values())) if hasattr(output, "values") else output[0]
    return found


@torch.no_grad()
def save(name: str, path: Path, engine: str) -> None:
    """Compile a model ahead of time into a file, and what eager gives beside it."""
    model, args = case(name)
    options = {"guard_filter_fn": saveable_guards, "engine": engine}
    compiled: Any = torch.compile(model, backend="djinn", fullgraph=True, options=options)
    compiled.forward.aot_compile((args, {})).save_compiled_function(str(path))
    torch.save(first(model(*args)).clone(), f"{path}.expected")


def load_elsewhere(folder: Path, repo: Path, files: dict[str, Path]) -> list[str]:
    """Load the files in a new process, where all caches are empty; its lines."""
    environ = {
        **os.environ,
        "DJINN_CACHE_DIR": str(folder / "empty"),
        "DJINN_CONFIG_DIR": str(folder / "config"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "PYTHONPATH": str(repo),
    }
    words = [str(word) for pair in files.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *words], env=environ, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def check(names: list[str], folder: Path, repo: Path, engine: str) -> None:
    files = {name: folder / f"{name}.djinn" for name in names}
    words = [engine, *(str(word) for pair in files.items() for word in pair)]
    environ = {**os.environ, "PYTHONPATH": str(repo)}
    done = subprocess.run(
        [sys.executable, "-c", SAVER, *words], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert load_elsewhere(folder, repo, files) == [f"{name} 0" for name in names], "nothing is traced there"


def test_saved_here_loaded_there(tmp_path: Path, repo: Path) -> None:
    # Older torch asserts that what it guards lives on; a view that Transformers' configurations make does not.
    names = ["split", "ordered"] if torch.__version__ < (2, 13) else ["split", "ordered", "llama"]
    check(names, tmp_path, repo, "eager")


@pytest.mark.exam
@pytest.mark.parametrize("engine", ["inductor", "auto"])
def test_every_family_of_the_list(tmp_path: Path, repo: Path, engine: str) -> None:
    check(list(FAMILIES), tmp_path, repo, engine)


@torch.no_grad()
def compiled_ahead(model: nn.Module) -> Any:
    options = {"guard_filter_fn": saveable_guards, "engine": "eager"}
    compiled: Any = torch.compile(model.eval(), backend="djinn", fullgraph=True, options=options)
    return compiled.forward.aot_compile(((torch.randn(2, 4),), {}))


@pytest.mark.parametrize("stranger", [types.ModuleType("made_by_hand"), lambda: None, object(), None])
@torch.no_grad()
def test_what_nobody_could_find_again_is_refused_when_it_is_saved(tmp_path: Path, stranger: Any) -> None:
    model = Ordered()
    function = compiled_ahead(model)
    assert list(function(model, torch.ones(2, 4))) == ["a", "b"]
    (name,) = {name for name in function._artifacts.runtime_env.external_refs if "collections" in name}
    if stranger is None:
        del function.fn.__globals__[name]
    else:
        function.fn.__globals__[name] = stranger
    with pytest.raises(EngineError, match=f"cannot be saved.*{name}"):
        function.save_compiled_function(str(tmp_path / "model.djinn"))
    left = list(tmp_path.iterdir())
    if torch.__version__ < (2, 13):  # it has opened the file by then, and written nothing
        left = [file for file in left if file.stat().st_size]
    assert not left


def test_a_model_whose_forward_is_torchs_own_needs_a_word_of_the_user(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    function, file = compiled_ahead(model), tmp_path / "model.djinn"
    with pytest.raises(EngineError, match="external_data"):
        function.save_compiled_function(str(file))
    function.save_compiled_function(str(file), external_data={"model": model})
    x = torch.randn(2, 4)
    with torch.no_grad(), file.open("rb") as stream:
        loaded: Any = torch.compiler.load_compiled_function(stream, external_data={"model": model})
        torch.testing.assert_close(loaded(x), model(x))
