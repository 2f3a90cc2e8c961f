"""torch.export programs through djinn_fx.compile_exported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

import djinn_fx
from djinn_fx.errors import SettingsError
from tests.backend.support import CUT_OR_WHOLE, INDUCTOR, WAYS, Noted, each_way, same, stacked


@pytest.fixture(params=[*CUT_OR_WHOLE, "inductor"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Cut with the eager engine, in ``make exam`` whole with it too; whole with Inductor."""
    return {**WAYS, "inductor": INDUCTOR}[request.param]


@each_way
def test_static(options: dict[str, Any]) -> None:
    module, x = stacked(), torch.randn(5, 6)
    with torch.no_grad():
        run = djinn_fx.compile_exported(export(module, (x,)), options=options)
        noted = Noted()
        for _ in range(2):
            same(run(x), module(x), rtol=1e-4, atol=1e-5)
    assert len(noted.graphs) == 1


def test_static_refuses_another_size() -> None:
    run = djinn_fx.compile_exported(export(stacked(), (torch.randn(5, 6),)), options=WAYS["whole"])
    with pytest.raises(AssertionError, match="Guard failed"):
        run(torch.randn(4, 6))


def test_dynamic(options: dict[str, Any]) -> None:
    module = stacked()
    program = export(module, (torch.randn(5, 6),), dynamic_shapes={"x": {0: Dim("batch", min=2, max=64)}})
    noted = Noted()
    with torch.no_grad():
        run = djinn_fx.compile_exported(program, options=options)
        for batch in (5, 9, 33):
            x = torch.randn(batch, 6)
            same(run(x), module(x), rtol=1e-4, atol=1e-5)
    assert len(noted.graphs) == 1


def test_signature_is_the_programs_own(options: dict[str, Any]) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, *, scale: Tensor, extra: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"sum": x * scale + extra["bias"], "x": x.sin()}

    given = {"scale": torch.tensor(2.0), "extra": {"bias": torch.ones(3)}}
    run = djinn_fx.compile_exported(export(Net(), (torch.ones(3),), given), options=options)
    same(run(torch.ones(3), **given), Net()(torch.ones(3), **given))


@each_way
def test_buffers_of_the_program_change(options: dict[str, Any]) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.total.add_(x)
            return self.total * 2

    run = djinn_fx.compile_exported(export(Counter(), (torch.ones(3),)), options=options)
    with torch.no_grad():
        results = [run(torch.ones(3)).clone() for _ in range(3)]
    assert [result[0].item() for result in results] == [2, 4, 6]


def test_options_are_checked_at_once() -> None:
    program = export(stacked(), (torch.randn(5, 6),))
    with pytest.raises(SettingsError, match="did you mean 'engine'"):
        djinn_fx.compile_exported(program, options={"engin": "eager"})
    with pytest.raises(SettingsError, match="mode"):
        djinn_fx.compile_exported(program, mode="fastest")
    with pytest.raises(SettingsError, match="no-such-pass"):
        djinn_fx.compile_exported(program, options={"passes": ["no-such-pass"]})
