"""bench/placement/boundary.py: its chains hand one value on, as often as it says."""

from __future__ import annotations

import pytest
import torch

from bench.placement.boundary import chain
from tests.runtime.devices.two import needs_two

pytestmark = needs_two


@pytest.mark.parametrize(("devices", "stretches"), [([0], 1), ([0, 1], 7)])
def test_a_chain_has_a_boundary_between_any_two_regions(devices: list[int], stretches: int) -> None:
    run, value = chain(7, devices), torch.ones(1)
    assert len(run.stretches) == stretches
    assert sum(len(one.steps) for one in run.stretches) == 7
    assert run([value])[0] is value
