"""What a worker makes of a graph that came, without Ray: engines keep copies of weights where they have room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from djinn_fx.compiling.workers.running import build
from djinn_fx.compiling.workers.told import about
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.reasons import ReasonKind
from djinn_fx.remote.delta.graph import graph_form
from djinn_fx.remote.graphs.parts import part_of
from djinn_fx.settings.table import Settings
from tests import graphs
from tests.waiting import until

ROWS, WIDTH, LAYERS = 4, 1024, 2
WEIGHT_BYTES = LAYERS * 4 * WIDTH * WIDTH


def model(x: torch.Tensor, w: list[torch.Tensor]) -> torch.Tensor:
    for one in w:
        x = torch.relu(torch.nn.functional.linear(x, one))
    return x


@pytest.mark.parametrize(
    ("room", "engines", "copies"), [(3.0, ["packed"], True), (1.2, ["inductor"], False), (0.9, ["eager"], False)]
)
def test_an_engine_that_copies_weights_takes_part_where_there_is_room(
    room: float, engines: list[str], copies: bool, tmp_path: Path
) -> None:
    w = [torch.randn(WIDTH, WIDTH) * WIDTH**-0.5 for _ in range(LAYERS)]
    srg = graphs.lowered(graphs.trace(model, torch.empty(ROWS, WIDTH), w))
    run_passes(srg, [EstimateCost(), Lifetimes(), FindRegions(whole=True)], PassContext())
    part = part_of(srg, replace(srg.regions[0], device="worker:0"))
    settings = Settings.load(
        options={
            "engine": "packed", "worker_memory": f"{int(room * WEIGHT_BYTES)}B", "verify": "off",
            "cache_dir": str(tmp_path),
        }
    )  # fmt: skip
    told = {**about(settings, same_machine=True), "kinds": list(part.kinds), "label": part.label}
    made = build(graph_form(part.form, {}, part.hints, part.devices), told)
    assert [one["engine"] for one in made.told["builds"]] == engines
    kinds = [one["kind"] for one in made.told["reasons"]]
    assert (ReasonKind.BUDGET.value in kinds) == (not copies)
    x = torch.randn(ROWS, WIDTH)

    def copied() -> bool:
        with torch.no_grad():
            (got,) = made([x, *w])
            torch.testing.assert_close(got, model(x, w))
        return made.copied_bytes >= WEIGHT_BYTES

    assert until(copied) if copies else not copied()
