"""``djinn tune``: the table, the JSON form, what is remembered, and careless use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import djinn_fx
from djinn_fx.cli.main import main

MODEL = """
import torch
from torch import nn

def get_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

def get_inputs():
    return (torch.ones(4, 16),)
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(MODEL)
    return path


def test_the_winner_is_shown_and_used_by_the_next_compile(
    model_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    assert main(["tune", str(model_file), "--engines", "packed,eager", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "packed" in shown
    assert "eager" in shown
    (graph,) = json.loads(out.read_text())["graphs"]
    assert graph["decided"]
    medians = {one["engine"]: one["median_s"] for one in graph["engines"]}
    assert set(medians) == {"packed", "eager"}
    assert all(median > 0 for median in medians.values())
    winner = graph["engine"]

    torch._dynamo.reset()
    namespace: dict[str, object] = {}
    exec(MODEL, namespace)
    module = namespace["get_model"]().eval()  # type: ignore[operator]
    with torch.no_grad():
        run = torch.compile(module, backend="djinn", options={"engine": ["packed", "eager"]})
        for _ in range(3):
            run(torch.ones(4, 16))
    (contest,) = djinn_fx.status(run).contests
    assert {one.engine for one in contest.entrants if one.answers} == {winner}


def test_json_alone_goes_to_stdout(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(model_file), "--engines", "packed,eager", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "djinn-tune/1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engines", "packt"], "did you mean 'packed'"),
        (["--engines", ""], "name at least one engine"),
        (["--option", "verify"], "key=value"),
        (["--json", "/nowhere/at/all.json"], "no directory"),
    ],
)
def test_bad_words_are_one_clear_error(
    model_file: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["tune", str(model_file), *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_model_that_fails_names_the_users_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.py"
    path.write_text(MODEL.replace("torch.ones(4, 16)", "torch.ones(4, 17)"))
    assert main(["tune", str(path), "--engines", "packed,eager"]) == 4
    assert "broken.py" in capsys.readouterr().err
