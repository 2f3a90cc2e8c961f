"""Results keep eager's strides, whichever engine gives them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from djinn_fx.engines import registry
from djinn_fx.settings.table import Settings
from tests.backend.support import djinn

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def function(image: Tensor, rows: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    return (
        torch.roll(image, 1, 2),
        F.batch_norm(rows, torch.zeros(5), torch.ones(5)),
        image.index_select(1, places),
        torch.cat([torch.empty(0), image.transpose(1, 2)], dim=-1),
        rows.softmax(-1),
        F.pad(image, (1, 1, 1, 1)),
        F.interpolate(image, scale_factor=2.0),
        F.layer_norm(rows.t(), (3,)).clone(),
        torch.where(rows > 0, rows, -rows),
        rows.scatter(0, torch.zeros(1, 5, dtype=torch.long), 1.0),
        image[:, places] * 2,
    )


@pytest.mark.parametrize("engine", ["inductor", "openvino", "onnxruntime"])
def test_strides_of_results(engine: str) -> None:
    if not registry.engine(engine, Settings()).capability().can_run:
        pytest.skip(f"{engine} does not run here")
    torch.manual_seed(0)
    given = (
        torch.randn(2, 4, 5, 6).contiguous(memory_format=torch.channels_last),
        torch.randn(5, 3).t(),
        torch.tensor([2, 0]),
    )
    with torch.no_grad():
        expected = function(*given)
        compiled = djinn(function, {"engine": engine, "progress": False})
        for _ in range(4):
            found = compiled(*given)
            assert [one.stride() for one in found] == [one.stride() for one in expected]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
