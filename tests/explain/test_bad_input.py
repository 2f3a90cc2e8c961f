"""Bad input: one clear error that names the user's line, an exit code that says whose it is, no traceback."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from djinn_fx.explain.command import main

#: Exit codes, and what is said where no model or no inputs were found.
USAGE, NOT_FOUND, FAILED = 2, 3, 4
NONE = ("no model found", "djinn_fx.explain", "no example inputs", "randn", "was not used", "does not fit")
NONE += ("cannot be constructed", "returned None")

NET = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.relu()\n"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DJINN_DEBUG", raising=False)


def error_of(capsys: pytest.CaptureFixture[str], code: int, *argv: str) -> str:
    """What a failing command says on stderr, after checks that hold for every failure."""
    assert main(argv) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import torch\ndef f(:\n", "net.py:2: SyntaxError: invalid syntax"),
        ("x = 'a\0b'\n", "net.py"),
        ("def f():\n    raise KeyError('here')\n\nf()\n", "net.py:2: KeyError: 'here' (while loading the file)"),
        ("import sys\nsys.exit(3)\n", "net.py:2: the file calls sys.exit(3) while loading the file"),
        ("import nowhere_to_be_found.at_all\n", "net.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("import torch._six\n", f"torch {metadata.version('torch')} is installed and has no such module"),
        ("import json\njson.loads('{')\n", "net.py:2: JSONDecodeError"),
        ("import broken_helper\n", "broken_helper.py:1: SyntaxError"),
        ("", "net.py: no model found"),
        ("def net(x):\n    return x\n", "    python -m djinn_fx.explain net.py:net\n"),
        (NET, "found the model but no example inputs for Net.forward(x)"),
        (NET.replace("self, x", "self, x, *, mask, deep=1"), "        return [torch.randn(1, 16), torch.randn(1, 16)]"),
        (
            NET.replace("self, x", "self, x, y") + "example_inputs = [torch.ones(1)]\n",
            "what example_inputs gives does not fit Net.forward(x, y): missing a required argument: 'y'",
        ),
        (NET + "def get_inputs():\n    return 1 / 0\n", "net.py:6: ZeroDivisionError: division by zero (while calling"),
        (NET + "def get_inputs(size):\n    return size\n", "(get_inputs(size) was not used: it needs arguments.)"),
        (
            NET + "    def __init__(self):\n        boom\n",
            "net.py:6: NameError: name 'boom' is not defined (while calling Net()",
        ),
        (NET + "    def __init__(self, width):\n        pass\n", "Net cannot be constructed without arguments (width)"),
        (NET + "def get_model():\n    return None\n", "get_model() returned None"),
    ],
)
def test_a_bad_file(capsys: pytest.CaptureFixture[str], source: str, says: str) -> None:
    Path("net.py").write_text(source)
    Path("broken_helper.py").write_text("a b\n")
    code = NOT_FOUND if any(word in says for word in NONE) else FAILED
    assert says in error_of(capsys, code, "net.py")


def test_a_class_with_arguments_named_explicitly(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(NET + "    def __init__(self, width):\n        pass\n")
    assert "        return [...]  # width\n" in error_of(capsys, NOT_FOUND, "net.py:Net")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("missing.py", "missing.py: no such file"),
        ("missing.py:net", "missing.py: no such file"),
        (".", ".: is a directory; name a file in it, e.g. net.py"),
        ("weights.pt", "weights.pt: is not a Python file"),
        ("net.py:other", "net.py: defines no 'other'"),
    ],
)
def test_a_bad_path(capsys: pytest.CaptureFixture[str], spec: str, says: str) -> None:
    Path("net.py").write_text(NET)
    Path("weights.pt").write_text("")
    assert says in error_of(capsys, NOT_FOUND, spec)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--option", "enigne=eager"], "enigne"),
        (["--option", "engine"], "write it as key=value"),
        (["--option", "passes=[", "--mode", "default"], "--option passes=[: the value cannot be read"),
        (["--option", "engine=3"], "engine"),
        (["--mode", "fastest"], "mode"),
        (["--json", "nowhere/report.json"], "there is no directory"),
        (["--json", "."], "is a directory"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_bad_argument_before_any_work(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    Path("net.py").write_text("raise RuntimeError('must not be loaded')\n")
    error = error_of(capsys, USAGE, "net.py", *arguments)
    assert says in error
    assert "must not be loaded" not in error


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("y = x + 1\n        return y @ torch.ones(5)", "net.py:5: RuntimeError: "),
        ("return x.no_such_method()", "net.py:4: AttributeError: 'Tensor' object has no attribute 'no_such_method'"),
        (
            "with torch._dynamo.error_on_graph_break(True):\n            torch._dynamo.graph_break()",
            "net.py:5: Net cannot be captured: Unsupported: Call to `torch._dynamo.graph_break()`",
        ),
    ],
)
def test_a_model_that_cannot_be_captured(capsys: pytest.CaptureFixture[str], body: str, says: str) -> None:
    Path("net.py").write_text(NET.replace("return x.relu()", body) + "x = torch.ones(3)\n")
    assert says in error_of(capsys, FAILED, "net.py")


def test_what_needs_values_is_asked_again_with_real_ones(capfd: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(NET.replace("return x.relu()", "return x.tolist()") + "x = torch.ones(3)\n")
    assert main(["net.py"]) == FAILED
    assert "nothing was captured" in capfd.readouterr().err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_DEBUG", "1")
    Path("net.py").write_text("1 / 0\n")
    assert main(["net.py"]) == FAILED
    assert "Traceback" in capsys.readouterr().err
