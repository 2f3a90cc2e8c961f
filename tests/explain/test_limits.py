"""What cannot be kept: an exit code of its own, and the least that would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_fx.explain.command import main

NET = "import torch\nmodel = torch.nn.Linear(1000, 1000)\nx = torch.ones(8, 1000)\n"


@pytest.mark.parametrize("extra", [["--option", "memory_budget=cpu=1MB"], ["--topology", "small.yaml"]])
def test_what_does_not_fit_is_exit_code_5(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("small.yaml").write_text(
        "topology:\n  hosts:\n    alpha: {devices: {gpu0: {row: h100-pcie, memory: 1MB}}}\n"
        "  links:\n    - {between: [alpha/gpu0, alpha], class: pcie5-x16}\n"
    )
    assert main(["net.py", *extra]) == 5
    printed = capsys.readouterr()
    assert "smallest budget" in printed.out or "is the least that would do" in printed.err
    assert "Traceback" not in printed.err


def test_what_fits_in_slices_of_the_batch_is_said_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import torch\nfrom torch.nn import Linear, ReLU, Sequential\n"
        "model = Sequential(Linear(8, 8000), ReLU(), Linear(8000, 8))\n"
        "x = torch.ones(256, 8)\n"
    )
    assert main(["net.py", "--option", "memory_budget=cpu=6MB"]) == 0
    assert "slices" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_run_unasked_has_a_limit(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        if x.sum() > 0:\n"
        "            x = x + torch.ones(2, 1000, 1000, 1000).sum()\n        return x\nx = torch.ones(3)\n"
    )
    assert main([str(file)]) == 4
    assert "net.py:5: RuntimeError" in (error := capfd.readouterr().err)
    assert "it was run unasked, with 4.0 GB of memory; --real gives it all there is" in error
