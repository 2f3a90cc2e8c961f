"""Every Python snippet of the pages runs: a page's one after the other, with what the page takes for granted."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)

#: What is taken for granted before a page's first snippet.
BEFORE = {
    "cost_models.md": "import torch\nmodel = torch.nn.Linear(4, 4)",
    "memory_budget.md": "import torch\nmodel = torch.nn.Linear(4, 4)",
    "saved_functions.md": """
import torch
from tests.saved.test_aot_compile import SIDE, Layers
model, x = Layers().eval(), torch.randn(2, SIDE)
""",
    "sessions.md": """
import torch
from tests.sessions.models import build
model, prompt, tool_result = build("full"), torch.arange(2, 40), torch.arange(50, 60)
""",
    "offloading.md": """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
)
LlamaForCausalLM(config).save_pretrained("folder")
ids = torch.zeros(1, 4, dtype=torch.long)

class MyModel(nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)
""",
}
#: Pages whose snippets ask for no engine: one that builds nothing does here.
ENGINE = {"README.md": "packed"}
#: Snippets that need what a page says is not everywhere.
NEEDS_CUDA = 'device="cuda'


def snippets(page: Path) -> list[tuple[int, str]]:
    """The first line and the text of each."""
    text = page.read_text("utf-8")
    return [(text[: match.start(1)].count("\n"), match[1]) for match in _FENCE.finditer(text)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if snippets(page)], ids=lambda page: str(page.relative_to(REPO))
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_snippets_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if page.name in ENGINE:
        pytest.importorskip("transformers", reason="Transformers, whose models README shows, is not installed")
        monkeypatch.setenv("DJINN_ENGINE", ENGINE[page.name])
    module = types.ModuleType("snippet")  # dataclasses look for the module that they are in
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = module.__dict__
    exec(BEFORE.get(page.name, ""), names)
    for line, text in snippets(page):
        if NEEDS_CUDA in text and not torch.cuda.is_available():
            compile(text, str(page), "exec")  # no CUDA device here
            continue
        exec(compile("\n" * line + text, str(page), "exec"), names)
    torch._dynamo.reset()
    if page.name == "README.md":  # the output that it shows, engines and times aside
        shown = re.search(r"^prints what serves.*?^```text\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
        assert shown is not None
        printed = _beginnings(capsys.readouterr().out)
        assert [line for line in _beginnings(shown[1]) if line not in printed] == []


def _beginnings(text: str) -> list[str]:
    return [" ".join(line.split()[:3]) for line in text.splitlines()]
