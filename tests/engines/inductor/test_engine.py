"""The Inductor engine: what it builds computes what eager does, in this process and, from the cache, in another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.dispatch.build import Builder
from djinn_fx.dispatch.memory import MEMORY
from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.base import Artefact, RegionGraph
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.errors import EngineError
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.table import Settings
from djinn_fx.srg import SRG
from tests import capture, graphs
from tests.running import cut_by_labels, plan_in_order

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=str(tmp_path / "cache"), progress=False)


def whole(srg: SRG) -> RegionGraph:
    """A graph as one region."""
    cut_by_labels(srg, [0 for _ in srg.ops])
    return region_graph(srg, srg.regions[0])


def compiled(region: RegionGraph, *arguments: Any, **options: Any) -> Sequence[Any]:
    """Compile a region and run it once."""
    run = InductorEngine(**options).compile(region).ready
    assert run is not None
    return run(list(arguments))


def traced(function: Callable[..., Any], *arguments: Tensor) -> RegionGraph:
    return whole(graphs.lowered(graphs.trace(function, *arguments)))


def test_a_stored_artefact_runs_in_a_new_process(settings: Settings, tmp_path: Path, repo: Path) -> None:
    def layer(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        y = F.gelu(x @ w + b)
        return y, y.sum(-1)

    arguments = [torch.randn(5, 8), torch.randn(8, 8), torch.randn(8)]
    (srg,) = capture.capture(layer, arguments)
    run_passes(srg, [EstimateCost(), FindRegions()], PassContext())
    builder = Builder(settings)
    made = builder.build(srg, plan_in_order(srg))
    (one,) = made.builds
    assert one.outcome == "built"
    found = made.callables[0](list(arguments))
    torch.testing.assert_close(tuple(found), layer(*arguments))

    MEMORY.clear()
    (again,) = Builder(settings).build(srg, plan_in_order(srg)).builds
    assert (again.outcome, again.key) == ("store", one.key)

    torch.save([arguments, list(found)], tmp_path / "values.pt")
    script = f"""
import torch
from djinn_fx.dispatch.checks import load_artefact
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.settings.table import Settings

def compile(self, region, **_):
    raise AssertionError("compiled again")

InductorEngine.compile = compile
arguments, expected = torch.load({str(tmp_path / "values.pt")!r})
run = load_artefact(Settings(cache_dir={settings.cache_dir!r}), {one.key!r})
for mine, theirs in zip(run(list(arguments)), expected, strict=True):
    assert torch.equal(mine, theirs)
print("same")
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(repo),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "empty"),  # nothing of Inductor's own is left
    }
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "same", ran.stderr


def test_the_mode_in_force_while_compiling_does_not_matter() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(x @ w) + 1

    region = traced(function, torch.empty(4, 8), torch.empty(8, 8))
    x, w = torch.randn(4, 8), torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        (found,) = compiled(region, x, w)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, function(x, w))
    with torch.inference_mode():
        (again,) = compiled(traced(function, torch.empty(4, 8), torch.empty(8, 8)), x, w)
    torch.testing.assert_close(again, found, rtol=0, atol=0)


def test_dropout_draws_the_numbers_that_eager_draws() -> None:
    def function(x: Tensor) -> Tensor:
        return F.dropout(torch.tanh(x), 0.5) * 2 + torch.rand_like(x)

    region = traced(function, torch.empty(16, 16))
    x = torch.randn(16, 16)
    run = InductorEngine().compile(region).ready
    assert run is not None
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected = function(x)
        torch.manual_seed(seed)
        (found,) = run([x])
        torch.testing.assert_close(found, expected)


def test_a_region_writes_into_its_inputs() -> None:
    def step(x: Tensor, cache: Tensor, at: Tensor) -> Tensor:
        cache.index_copy_(0, at, x)
        return torch.relu(cache).sum(0)

    arguments = (torch.randn(1, 6), torch.zeros(4, 6), torch.tensor([2]))
    (srg,) = capture.capture(step, [value.clone() for value in arguments])
    x, cache, at = (value.clone() for value in arguments)
    by_name = dict(zip((node.name for node in srg.inputs), _in_order(srg, x, cache, at), strict=True))
    region = whole(srg)
    names = [node.name for node in region.gm.graph.find_nodes(op="placeholder")]
    (found,) = compiled(region, *[by_name[name] for name in names])
    expected_cache = torch.zeros(4, 6)
    expected = step(arguments[0], expected_cache, arguments[2])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(cache, expected_cache)


def _in_order(srg: SRG, *values: Tensor) -> list[Tensor]:
    """The values in the order of the graph's inputs, told apart by shape and dtype."""
    kinds = {(str(value.dtype), tuple(value.shape)): value for value in values}
    return [kinds[(str(node.meta["val"].dtype), tuple(node.meta["val"].shape))] for node in srg.inputs]


def test_one_artefact_serves_other_sizes() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.softmax(x * 2, -1).sum(0)

    (srg,) = capture.capture(function, (torch.randn(5, 7),), dynamic=True)
    region = whole(srg)
    run = InductorEngine().compile(region).ready
    assert run is not None
    wanted = [node.meta["val"] for node in region.gm.graph.find_nodes(op="placeholder")]
    shape = next(value.shape for value in wanted if isinstance(value, Tensor))
    for rows, columns in ((5, 7), (9, 4), (33, 130)):
        x = torch.randn(rows, columns)
        size = dict(zip(map(str, shape), x.shape, strict=True))
        (found,) = run([x if isinstance(value, Tensor) else size[str(value)] for value in wanted])
        torch.testing.assert_close(found, function(x))


def test_strides_that_inductor_chose_are_in_the_header() -> None:
    arguments = (torch.randn(2, 4, 5, 6).to(memory_format=torch.channels_last), torch.tensor([2, 0]))
    (srg,) = capture.capture(lambda x, places: x.index_select(1, places), arguments)
    region = whole(srg)
    made = InductorEngine().compile(region)
    assert made.ready is not None
    results = made.ready([arguments[0] if one.dim() == 4 else arguments[1] for one in region.example_inputs])
    assert made.header["output_strides"] == [[str(stride) for stride in result.stride()] for result in results]


def test_a_region_that_inductor_cannot_take_is_refused_or_fails_with_a_message() -> None:
    sparse = traced(lambda x: x * 2, torch.eye(3).to_sparse())
    refusal = InductorEngine().supports(sparse)
    assert refusal is not None
    assert refusal.kind is ReasonKind.ENGINE_REFUSED
    region = traced(torch.tanh, torch.empty(3))
    node = next(iter(region.gm.graph.find_nodes(op="call_function", target=torch.ops.aten.tanh.default)))
    node.target = lambda x: 1 / 0
    region.gm.recompile()
    with pytest.raises(EngineError, match="inductor could not compile"):
        InductorEngine().compile(region)


def test_bytes_of_another_kind_are_an_error_of_ours() -> None:
    with pytest.raises(EngineError, match="could not load"):
        InductorEngine().load(Artefact(header={}, payload=b"no artefact"))
