"""The bench of models larger than memory: that its sides are one model, and that its floors are what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser
from bench.memory import budget, budget_child
from bench.memory.limits import Limit, Watched


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of two layers, in more than one shard."""
    monkeypatch.setattr(budget_child, "QUICK", (640, 640, 2, 8000))
    monkeypatch.setattr(budget_child, "_SHARD_BYTES", 10_000_000)
    assert budget_child.write(str(tmp_path), quick=True)["bytes"] > 10_000_000
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return str(tmp_path)


def test_every_side_is_the_same_model(folder: str) -> None:
    sides = [side for side in budget_child.SIDES if not side.startswith("accelerate")]  # a library of the bench's alone
    tokens = {}
    for side in sides:
        made = budget_child.Side(side, folder, quick=True, budget=2**33)
        tokens[side] = made.answer(length=9, more=2)["tokens"]
        assert isinstance(made.model, nn.Module)
    assert len(tokens) == 4
    assert len({tuple(found) for found in tokens.values()}) == 1


def test_rates_are_of_each_pattern(folder: str) -> None:
    found = budget_child.rates(folder, 16 << 20)
    assert len(found) == len(budget_child.PATTERNS)
    assert all(rate > 0 for rate in found.values())


def test_a_floor_counts_what_is_there_already() -> None:
    ours = {
        "prefill 64": [{"seconds": [9.0, 1.0, 1.0], "pass_bytes": 1000, "ahead": [300, 200, 0]}],
        "prefill 256": [{"seconds": [9.0], "pass_bytes": 1000, "ahead": [300]}],
    }
    compute = {"prefill 64": {"seconds": [2.0, 3.0, 5.0]}, "prefill 256": {"seconds": [80.0]}}
    assert budget.floors(ours, [10.0], compute, "prefill 64") == [70.0]
    assert budget.floors(ours, [10.0], compute, "prefill 256") == [80.0]
    assert budget.floors(ours, [10.0], compute, "decode") == [90.0]
    assert budget.floors(ours, [1000.0], compute, "decode") == [4.0]


def test_a_call_below_its_floor_fails_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    def of(seconds: float) -> dict[str, list[dict[str, object]]]:
        one = {"pass_bytes": 100, "ahead": [0, 0], "tokens": [1, 2], "major_faults": 0}
        return {name: [{**one, "seconds": [seconds, seconds]}] for name in budget.PROMPTS}

    compute = {name: {"seconds": [1.0, 1.0], "tokens": [1, 2]} for name in budget.PROMPTS}
    report = Report("memory_budget", parse(parser("", runs=1), []))
    answers = {"djinn": of(9.0), "accelerate": of(18.0), "mapped": of(27.0)}
    budget.bars(report, answers, {"djinn": {"rss_most": 50}}, [10.0], compute, budget=100)
    found = report.content()["bars"]
    assert found["decode, best rival / djinn"]["value"] == 2.0
    assert found["prefill 64, accelerate / djinn"]["value"] == 2.0
    assert found["decode / floor"]["value"] == pytest.approx(0.9)
    assert found["decode, no call below its floor"]["holds"] is False
    assert found["tokens equal"]["holds"] is True
    assert "memory_budget" in capsys.readouterr().out


def test_a_limit_holds_a_process_from_its_start() -> None:
    size = 200 << 20
    with Limit("test", 100 << 20) as limit:
        if not limit.held_by:
            pytest.skip("no control group can be made here")
        command = [*limit.prefix, sys.executable, "-c"]
        small = subprocess.run(
            [*command, "import json; print(json.dumps(1))"], capture_output=True, text=True, check=True
        )
        assert json.loads(small.stdout) == 1
        assert 0 < limit.figures()["most"] < 100 << 20
        large = subprocess.run([*command, f"x = b'x' * {size}"], capture_output=True, check=False)
        assert large.returncode != 0
        folder = limit._folder
    assert folder is not None
    assert not folder.exists()


def test_what_a_process_holds_is_seen_from_outside() -> None:
    watched = Watched(os.getpid())
    block = torch.ones(30 << 20)
    while watched.most < block.numel() * 4:
        pass
    assert watched.stop() >= block.numel() * 4


#: As the bench runs, with a small model and no file above 5 MB: the second shard does not fit.
FULL_DISK = """
import resource, sys
from bench.memory import budget, budget_child
budget_child.QUICK, budget_child._SHARD_BYTES = (640, 640, 2, 8000), 4_000_000
def write_here(name, given, caches):
    try:
        return budget_child.write(**given)
    except Exception as error:
        raise budget.ChildFailedError(f"{type(error).__name__}: {error}") from error
budget.call_child = write_here
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
sys.exit(budget.main(["--quick", "--work", sys.argv[1], *sys.argv[2:]]))
"""


@pytest.mark.parametrize("keep", [False, True])
def test_a_disk_that_is_full_is_told_and_nothing_is_left(tmp_path: Path, keep: bool) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), *(["--keep"] if keep else [])]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert "the weights were not written" in done.stdout
    assert "File too large" in done.stdout
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == []
