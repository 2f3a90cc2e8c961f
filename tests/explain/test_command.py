"""The command: what it prints where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.explain.command import main
from djinn_fx.explain.forms.words import memory_text

MODELS = Path(__file__).parent / "models"
REPEATED = str(MODELS / "repeated.py")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def test_text_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([REPEATED]) == 0
    printed = capsys.readouterr()
    assert "Repeated (inference)" in printed.out
    assert printed.err == ""


def test_json_alone_on_stdout_even_if_the_file_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nprint('loading')\nclass Net(torch.nn.Module):\n"
        "    def forward(self, x):\n        print('running')\n        return x.relu()\n"
        "def get_inputs():\n    print('inputs')\n    return [torch.ones(3)]\n"
    )
    assert main([str(file), "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["model"]["name"] == "Net"
    assert printed.err.split() == ["loading", "inputs", "running"]


def test_json_to_a_file_and_text_beside(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    assert main([REPEATED, "--json", str(target)]) == 0
    assert json.loads(target.read_text())["schema"] == "djinn.explain/3"
    assert "Repeated (inference)" in capsys.readouterr().out


def test_training_shows_both_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([REPEATED, "--training", "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [graph["kind"] for graph in data["scenarios"][0]["graphs"]] == ["forward", "backward"]
    assert data["model"]["mode"] == "training"


def test_training_is_checked_with_its_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([REPEATED, "--training", "--build", "--option", "engine=eager"]) == 0
    text = capsys.readouterr().out
    assert "Graph 2 of 2: backward" in text
    assert "equal to eager: largest difference" in text


def test_options_reach_the_passes(capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for option in ("regions=whole", "regions=auto:1"):
        assert main([REPEATED, "--option", option, "--json", "-"]) == 0
        counts.append(len(json.loads(capsys.readouterr().out)["scenarios"][0]["graphs"][0]["regions"]))
    assert counts[0] == 1 < counts[1]


def test_graph_breaks_name_the_file_as_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        x = x + 1\n        torch._dynamo.graph_break()\n        return x.relu()\nx = torch.ones(3)\n"
    )
    assert main(["net.py", "--json", "-"]) == 0
    (reason,) = json.loads(capsys.readouterr().out)["scenarios"][0]["graph_breaks"]
    assert reason.endswith(" at net.py:5")


def test_what_dynamo_leaves_to_python_is_said_with_what_would_capture_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "net.py"
    file.write_text("import torch\nmodel = torch.nn.LSTM(4, 5)\nx = torch.ones(3, 4)\n")
    assert main([str(file)]) == 4
    error = capsys.readouterr().err
    assert "Attempted to wrap RNN, GRU, or LSTM: Set torch._dynamo.config.allow_rnn=True" in error
    assert "runs no tensor operation" not in error


def test_dynamic_sizes_stay_symbolic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.py"
    file.write_text("import torch\nmodel = torch.nn.Linear(4, 5)\nx = torch.ones(3, 4)\n")
    inputs = []
    for arguments in ([], ["--dynamic"]):
        assert main([str(file), "--json", "-", *arguments]) == 0
        inputs.append(json.loads(capsys.readouterr().out)["scenarios"][0]["graphs"][0]["regions"][0]["inputs"])
    assert inputs[0] < inputs[1]  # the size itself becomes an input


def test_build_with_the_eager_engine_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([REPEATED, "--build", "--option", "engine=eager"]) == 0
    text = capsys.readouterr().out
    assert "equal to eager: largest difference" in text
    assert "eager built" in text


def test_a_wrong_result_is_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import djinn_fx.backend

    real = djinn_fx.backend.capture

    def wrong(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **{**kwargs, "build": False})
        return replace(result, graph_breaks=(), output=result.output + 1)

    monkeypatch.setattr(djinn_fx.backend, "capture", wrong)
    assert main([REPEATED, "--build"]) == 1
    assert "NOT EQUAL to eager: largest difference 1.00e+00" in capsys.readouterr().out


def test_a_failure_of_djinn_is_one_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from djinn_fx.errors import PassError

    def failing(*_: Any, **__: Any) -> Any:
        raise torch._dynamo.exc.BackendCompilerFailed(len, PassError("pass 'order' failed at node mm"), None)

    monkeypatch.setattr("djinn_fx.backend.capture", failing)
    assert main([REPEATED]) == 1
    assert capsys.readouterr().err == f"error: {REPEATED}: Repeated: pass 'order' failed at node mm\n"


def test_the_peak_that_was_foretold_stands_beside_the_one_that_was_counted(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    assert main([REPEATED, "--build", "--option", "engine=eager", "--json", str(target)]) == 0
    check = json.loads(target.read_text())["run"]["scenarios"][0]["check"]
    assert check["live_bytes"] == pytest.approx(check["foretold_bytes"], rel=0.01)
    assert "foretold for the graphs' own ops (+" in memory_text(100, 101)


@pytest.mark.slow
def test_as_a_command_as_in_this_process_and_into_a_pipe_that_closes(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "djinn_fx.explain", REPEATED, "--json", "-"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert main([REPEATED, "--json", "-"]) == 0
    here, there = json.loads(capsys.readouterr().out), json.loads(done.stdout)
    assert len(here["run"]) == len(there["run"]) > 0
    for measured in ("run", "cache"):
        del here[measured], there[measured]
    assert json.dumps(here) == json.dumps(there)  # the order of keys too
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_what_was_rounded_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    file = tmp_path / "wide.py"
    file.write_text("import torch\nmodel = torch.nn.Linear(256, 256)\ninputs = torch.ones(2, 256)\n")
    options = ["--option", "engine=openvino", "--option", "precision=allow-int8-weights"]
    assert main([str(file), "--build", *options]) == 0
    assert "rounding    openvino: off float64 by " in capsys.readouterr().out
