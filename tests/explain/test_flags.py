"""What the command does besides finding a model: scripts, gates, short forms of settings, progress, errors."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_fx.cli.main import main as djinn
from djinn_fx.errors import SettingsError
from djinn_fx.explain.command import main
from djinn_fx.explain.gates import read_gates
from djinn_fx.explain.progress import PATIENCE_S, Progress
from djinn_fx.explain.report import BuildInfo
from djinn_fx.srg.memory import MemoryPeak
from tests.explain.test_report import PEAK, graph, report_on, scenario

NET = "import torch\nmodel = torch.nn.Linear(8, 8)\nx = torch.ones(2, 8)\n"
SCRIPT = """
import sys, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
    def forward(self, x):
        x = self.linear(x)
        torch._dynamo.graph_break()
        return x.relu()
@torch.compile
def double(x):
    return x * 2
def never(x):
    return x
if __name__ == "__main__":
    print("told", sys.argv[1:])
    torch.compile(never)
    double(torch.ones(3))
    net = Net()
    net.compile(backend="eager")
    net(torch.ones(2, 4)).sum().backward()
"""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DJINN_DEBUG", raising=False)
    Path("net.py").write_text(NET)


def test_a_script_is_run_as_it_is_and_what_it_compiles_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    usual = torch.compile
    Path("script.py").write_text(SCRIPT)
    assert main(["--exec", "script.py", "--json", "-", "--", "--json", "5"]) == 0
    printed = capsys.readouterr()
    assert "told ['--json', '5']" in printed.err
    data = json.loads(printed.out)
    assert data["model"]["rule"] == "2 parts that it gives to torch.compile, of 3"
    double, net = data["scenarios"]
    assert (double["name"], double["inputs"]) == ("double", ["arg0_1: float32[3]"])
    assert (net["name"], net["model"], data["model"]["mode"]) == ("Net", "Net", "training")
    assert sorted(one["kind"] for one in net["graphs"]) == ["backward", "backward", "forward", "forward"]
    assert [reason.endswith(" at script.py:9") for reason in net["graph_breaks"]] == [True]
    assert torch.compile is usual


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("print(1)\n", 4, "script.py: it ran, and gives nothing to torch.compile"),
        ("import torch\ntorch.compile(torch.neg)\n", 4, "calls none of what it gives to torch.compile"),
        ("import sys\nsys.exit(3)\n", 4, "script.py: the script ended with exit code 3"),
        ("1 / 0\n", 4, "script.py:1: ZeroDivisionError"),
    ],
)
def test_a_script_with_nothing_to_report(capsys: pytest.CaptureFixture[str], source: str, code: int, says: str) -> None:
    Path("script.py").write_text(source)
    assert main(["--exec", "script.py"]) == code
    assert says in capsys.readouterr().err
    assert main(["--exec", "nowhere.py"]) == 3
    assert main(["--exec", "script.py", "--input", "x:3"]) == 2


def test_one_model_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.py", "--hf", "llama"]) == 2
    assert main([]) == 2
    assert "--exec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("graph-breaks>0", "graph-breaks>0: graph-breaks is 1 in scenario b"),
        ("graph-breaks > 1", None),
        ("peak>=7kB", "peak>=7kB: peak is 7.0 kB in scenario a"),
        ("peak>7KiB", None),
        ("time>1ms", "time>1ms: time is 2.0 ms in scenario a"),
        ("ops<12", None),
        ("ops==12", "ops==12: ops is 12 in scenario a"),
        ("fallback>0", None),
    ],
)
def test_a_gate_holds_for_each_scenario(text: str, broken: str | None) -> None:
    (gate,) = read_gates([text])
    report = report_on(scenario(graph(), name="a"), scenario(graph(), name="b", graph_breaks=("print",)))
    assert gate.broken_by(report) == broken


def test_the_peak_of_a_gate_is_that_of_one_device() -> None:
    (gate,) = read_gates(["peak>9kB"])
    other: MemoryPeak = replace(PEAK, device="cuda:0", nbytes=9001)
    assert gate.broken_by(report_on(scenario(graph(memory=(PEAK, other))))) == "peak>9kB: peak is 9.0 kB"


def test_a_fallback_is_counted_however_it_is_told() -> None:
    (gate,) = read_gates(["fallback>0"])
    build = BuildInfo(region=0, engine="eager", outcome="fallback", key="", seconds=0.0)
    assert gate.broken_by(report_on(scenario(graph()), builds=(build,))) == "fallback>0: fallback is 1"


@pytest.mark.parametrize("text", ["peak", "peak>", "peek>1GB", "peak>much", "peak>3 parsecs", "time>5GB"])
def test_what_is_no_gate(text: str) -> None:
    with pytest.raises(SettingsError, match="--fail-on "):
        read_gates([text])


def test_a_broken_gate_is_exit_code_6_after_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.py", "--fail-on", "ops>0", "--fail-on", "peak>1TB"]) == 6
    printed = capsys.readouterr()
    assert "Linear (inference)" in printed.out
    assert printed.err == "--fail-on ops>0: ops is 2\n"
    assert main(["net.py", "--fail-on", "graph-breaks>0", "--json", "-"]) == 0


def test_short_forms_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.py", "--profile", "h100-sxm", "--json", "-"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["scenarios"]
    assert one["graphs"][0]["pricing"]["device"] == "h100-sxm"
    assert main(["net.py", "--memory-budget", "100B"]) == 5
    assert main(["net.py", "--memory-budget", "cpu=1GB"]) == 0
    assert main(["net.py", "--memory-budget", "much"]) == 2


def test_what_is_routine_is_hidden_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.py"]) == 0
    short = capsys.readouterr().out
    assert main(["net.py", "-v"]) == 0
    long = capsys.readouterr().out
    for text in ("transfers   none", "placed: ", "colocated: "):
        assert text not in short
        assert text in long
    assert "see -v and --json" in short


def test_the_cache_is_asked_by_the_hash_that_is_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "cache"))
    words = ["net.py", "--option", "regions=auto:1", "--json", "-"]
    assert main(words) == 0
    before = json.loads(capsys.readouterr().out)["cache"]
    assert before == {"hits": 0, "misses": 0, "lookups": []}
    assert main([*words, "--real", "--option", "engine=packed"]) == 0
    built = json.loads(capsys.readouterr().out)["cache"]
    assert (built["hits"], built["misses"], built["lookups"][0]["outcome"]) == (0, 1, "built")
    assert main(words) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(one["engine"], one["outcome"]) for one in data["cache"]["lookups"]] == [("packed", "stored")]
    key = data["cache"]["lookups"][0]["key"]
    printed = data["scenarios"][0]["graphs"][0]["regions"][0]["structural_hash"]
    assert djinn(["cache", "why", printed]) == 0
    assert f"entry whole graph: {key}" in capsys.readouterr().out
    assert main(["net.py", "--option", "regions=auto:1"]) == 0
    assert "artefacts   1 distinct region built before, by packed" in capsys.readouterr().out


def test_debug_shows_the_traceback_of_this_run_only(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text("1 / 0\n")
    assert main(["net.py", "--debug"]) == 4
    assert "Traceback" in capsys.readouterr().err
    assert main(["net.py"]) == 4
    assert "Traceback" not in capsys.readouterr().err


def test_who_interrupts_gets_130(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text("raise KeyboardInterrupt\n")
    assert main(["net.py"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_next_command_repeats_what_made_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.py", "--input", "input:3x8", "--training", "--topology", "dgx-h100"]) == 0
    out = capsys.readouterr().out
    assert "  next        python -m djinn_fx.explain net.py:model --input input:3x8 --training --real\n" in out


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_for_who_waits_at_a_terminal() -> None:
    screen, file = Screen(), io.StringIO()
    for target in (screen, file):
        with Progress(target) as progress:
            progress.stage("capturing Net")
            end = time.monotonic() + 20 * PATIENCE_S
            while target is screen and not screen.getvalue() and time.monotonic() < end:
                time.sleep(0.05)
    assert screen.getvalue().startswith("\rcapturing Net ... 1 s")
    assert screen.getvalue().endswith("\r")  # and nothing is left of it
    assert file.getvalue() == ""


def test_progress_says_nothing_of_what_is_quick() -> None:
    screen = Screen()
    with Progress(screen) as progress:
        progress.stage("capturing Net")
    assert screen.getvalue() == ""


def test_progress_into_a_file_is_a_line_a_stage_where_asked_for() -> None:
    file = io.StringIO()
    with Progress(file, always=True) as progress:
        progress.stage("finding")
        progress.stage("capturing")
    assert file.getvalue() == "finding ...\ncapturing ...\n"
