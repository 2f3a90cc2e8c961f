"""``djinn_fx.explain(model, *args)``: a module that can be called, and the same report as the command's."""

from __future__ import annotations

import copy
import html
import os
import subprocess
import sys

import pytest
import torch

import djinn_fx
from djinn_fx.errors import ModelFailedError, ModelFileError


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)
        self.drop = torch.nn.Dropout(0.5).eval()

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        result: torch.Tensor = self.drop(self.norm(x)) * scale
        return result


def test_a_report_in_python_and_as_a_page() -> None:
    report = djinn_fx.explain(Net().eval(), torch.ones(3, 4), scale=2.0)
    (one,) = report.scenarios
    assert (one.inputs, one.rung, report.model.mode) == (("x: float32[3, 4]", "scale: 2.0"), 3, "inference")
    assert len(one.graphs) == 1
    assert "Net (inference)" in str(report)
    assert 'next        torch.compile(model, backend="djinn")' in str(report)
    frame = report._repr_html_()
    assert frame.startswith("<iframe ")
    page = html.unescape(frame.partition('srcdoc="')[2].partition('"')[0])
    assert "<h1>Net</h1>" in page
    assert page.rstrip().endswith("</html>")


def test_the_model_stays_as_it_is() -> None:
    model, x = Net(), torch.randn(3, 4)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    kinds = [graph.kind for graph in djinn_fx.explain(model, x).graphs]
    assert kinds == ["forward", "backward"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model.drop.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_function_and_what_was_compiled() -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    for model in (double, torch.compile(double, backend="eager"), torch.compile(Net().eval(), backend="eager")):
        (graph,) = djinn_fx.explain(model, torch.ones(3, 4)).graphs
        assert graph.ops >= 1


def test_what_cannot_be_called_says_so() -> None:
    with pytest.raises(ModelFileError, match=r"do not fit Net\.forward\(x, \*, scale=1\.0\)|do not fit Net.forward"):
        djinn_fx.explain(Net())
    with pytest.raises(ModelFailedError, match="the model itself fails"):
        djinn_fx.explain(Net(), torch.ones(3, 5))


@pytest.mark.parametrize("first", ["import djinn_fx", "import djinn_fx.explain", "from djinn_fx import explain"])
def test_the_name_is_module_and_function_whatever_is_imported_first(first: str) -> None:
    code = (
        f"{first}\nimport sys, djinn_fx\nassert 'torch' not in sys.modules\nassert callable(djinn_fx.explain)\n"
        "import djinn_fx.explain\nassert djinn_fx.explain is sys.modules['djinn_fx.explain']\n"
        "assert callable(djinn_fx.explain)\nprint(djinn_fx.explain.__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("djinn_fx.explain\n", "", 0)
