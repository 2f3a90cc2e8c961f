"""Plans for devices that are not here: regions placed over them, nothing executed, one error for what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.backend import capture, compilations
from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.errors import DjinnError
from djinn_fx.settings.table import Settings
from djinn_fx.srg.record import Residency

#: Bytes of the weights of a layer.
LAYER = 2 * 4 * 256 * 1024


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(256, 1024, bias=False), nn.Linear(1024, 256, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Model(nn.Module):
    def __init__(self, count: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer() for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(autouse=True)
def afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def cluster(tmp_path: Path, *memory: str, row: str = "l4") -> str:
    """GPUs on one host, each with so much memory; a file that describes them."""
    devices = ", ".join(f"gpu{place}: {{row: {row}, memory: {size}}}" for place, size in enumerate(memory))
    links = "\n".join(
        f"    - {{between: [alpha/gpu{place}, alpha], class: pcie4-x16}}" for place, _ in enumerate(memory)
    )
    file = tmp_path / "cluster.yaml"
    file.write_text(f"topology:\n  name: lab\n  hosts:\n    alpha: {{devices: {{{devices}}}}}\n  links:\n{links}\n")
    return str(file)


def planned(model: nn.Module, x: Tensor, **options: Any) -> CapturedGraph:
    settings = Settings.load(None, {"regions": "auto:1", "expected_calls": 1, **options}, environ={})
    with torch.no_grad():
        (graph,) = capture(model, (x,), settings=settings, build=False).graphs
    return graph


def test_regions_go_over_the_devices_as_memory_asks_and_each_fits(tmp_path: Path) -> None:
    graph = planned(Model(), torch.empty(16, 256), topology=cluster(tmp_path, "9MB", "9MB", "9MB"))
    found = graph.plan.placement
    assert found is not None
    assert found.elsewhere
    assert [region.device for region in graph.plan.regions] == sorted(region.device for region in graph.plan.regions)
    assert {share.device for share in found.shares} == {region.device for region in graph.plan.regions}
    assert len(found.shares) == 2  # 16.8 MB: two devices hold it, and a third would only cost
    for share in found.shares:
        assert share.limit_bytes is not None
        assert share.memory_bytes <= share.limit_bytes == 9_000_000
    assert sum(share.memory_bytes for share in found.shares) >= 8 * LAYER


def test_what_passes_names_its_links_and_is_what_the_transfers_are(tmp_path: Path) -> None:
    graph = planned(Model(), torch.empty(16, 256), topology=cluster(tmp_path, "9MB", "9MB"))
    found = graph.plan.placement
    assert found is not None
    (passage,) = found.passages
    (transfer,) = graph.plan.transfers
    assert (passage.value, passage.source, passage.target) == (transfer.value, transfer.source, transfer.target)
    assert passage.nbytes == transfer.nbytes == 4 * 16 * 256
    assert passage.route == ("alpha/gpu0", "alpha", "alpha/gpu1")
    assert passage.time_s > 0
    # One call: what each takes, one after the other, and the hand-over between them; it can hardly be better.
    spent = sum(share.time_s for share in found.shares) + passage.time_s
    assert found.figure_s == pytest.approx(spent)
    assert 0 < found.bound_s <= found.figure_s
    assert found.gap < 0.01


def test_one_device_is_the_answer_where_it_holds_the_model() -> None:
    graph = planned(Model(), torch.empty(16, 256), topology="dgx-h100")
    found = graph.plan.placement
    assert found is not None
    assert found.devices == 8
    assert len(found.shares) == 1
    assert found.passages == graph.plan.transfers == ()
    assert found.runner_up_s is not None
    assert found.runner_up_s > found.figure_s
    assert graph.pricing.device.name == "h100-sxm"


def test_throughput_uses_all_devices_evenly(tmp_path: Path) -> None:
    topology = cluster(tmp_path, *["1GB"] * 4)
    graph = planned(Model(), torch.empty(4096, 256), topology=topology, objective="throughput")
    found = graph.plan.placement
    assert found is not None
    assert len(found.shares) == 4
    loads = [share.time_s for share in found.shares]
    assert max(loads) == pytest.approx(sum(loads) / 4, rel=0.01)
    assert found.figure_s >= max(loads)
    assert found.gap < 0.02


def test_devices_of_two_sorts_are_priced_each_by_its_own_row(tmp_path: Path) -> None:
    file = Path(cluster(tmp_path, "1GB", "1GB"))
    file.write_text(file.read_text().replace("gpu1: {row: l4", "gpu1: {row: h100-sxm"))
    graph = planned(Model(), torch.empty(4096, 256), topology=str(file))
    found = graph.plan.placement
    assert found is not None
    assert [(share.device, share.row) for share in found.shares] == [("alpha/gpu1", "h100-sxm")]


def test_nothing_is_executed_and_no_gpu_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    executed = []

    def asked(*_: Any) -> Any:
        raise AssertionError("a device was asked")

    @torch.library.custom_op("djinn_test::counted", mutates_args=())
    def counted(x: Tensor) -> Tensor:
        executed.append(1)
        return x.clone()

    counted.register_fake(torch.empty_like)
    monkeypatch.setattr(torch.cuda, "get_device_name", asked)
    monkeypatch.setattr(torch.cuda, "get_device_properties", asked)
    buffer = torch.ones(4)

    def function(x: Tensor) -> Tensor:
        buffer.add_(1)
        return counted(x) + buffer

    settings = Settings.load(None, {"topology": "dgx-h100"}, environ={})
    with torch.no_grad():
        result = capture(function, (torch.ones(4),), settings=settings, build=False)
    assert executed == []
    assert torch.equal(buffer, torch.ones(4))
    assert result.graphs[0].plan.placement is not None


def test_a_model_without_storage_can_be_planned(tmp_path: Path) -> None:
    with torch.device("meta"):
        model, x = Model(), torch.empty(16, 256)
    graph = planned(model, x, topology=cluster(tmp_path, "9MB", "9MB"))
    found = graph.plan.placement
    assert found is not None
    assert len(found.shares) == 2
    assert all(graph.srg.record(node).residency is not Residency.STATE for node in graph.srg.inputs)


def test_backward_follows_forward_there(tmp_path: Path) -> None:
    settings = Settings.load(None, {"topology": cluster(tmp_path, "12MB", "12MB"), "expected_calls": 1}, environ={})
    import torch._functorch.config as config

    with config.patch(force_non_lazy_backward_lowering=True):
        graphs = capture(Model(), (torch.randn(16, 256),), settings=settings, build=False).graphs
    forward, backward = graphs
    assert {region.device for region in forward.plan.regions} == {"alpha/gpu0", "alpha/gpu1"}
    assert {region.device for region in backward.plan.regions} == {"alpha/gpu0", "alpha/gpu1"}
    assert backward.plan.placement is not None


def test_a_compiled_model_runs_here_and_says_what_would_be_there(tmp_path: Path) -> None:
    model, x = Model(), torch.randn(16, 256)
    options = {"topology": cluster(tmp_path, "9MB", "9MB"), "engine": "eager", "cache_limit": 0}
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="djinn", options=options)(x), model(x))
    plan = compilations()[-1].plan
    assert {region.device for region in plan.regions} == {"cpu"}
    assert plan.placement is not None
    assert len(plan.placement.shares) == 2
    assert any("lab, which is not here: nothing runs there" in reason.detail for reason in plan.reasons)


def test_pins_name_devices_of_the_topology(tmp_path: Path) -> None:
    topology = cluster(tmp_path, "1GB", "1GB")
    pin = {"layers.0-1": "alpha/gpu1", "layers.2-7": "alpha/gpu0"}
    graph = planned(Model(), torch.empty(16, 256), topology=topology, pin=pin)
    found = graph.plan.placement
    assert found is not None
    assert [share.device for share in found.shares] == ["alpha/gpu1", "alpha/gpu0"]
    by_number = planned(
        Model(), torch.empty(16, 256), topology=topology, device_map={"layers.0-1": 1, "layers.2-7": 0}
    ).plan.placement
    assert by_number is not None
    assert by_number.shares == found.shares


@pytest.mark.parametrize(
    ("memory", "options", "message"),
    [
        (("3MB", "3MB"), {}, r"lab: their memory cannot hold the graph: .* is the least that would do; given are"),
        (("9MB", "9MB"), {"pin": {"layers.0": "alpha/gpu7"}}, r"there is no device 'alpha/gpu7'.*alpha/gpu"),
        (("9MB", "9MB"), {"device_map": {"layers.0": 9}}, r"there is no device '9'"),
    ],
)
def test_what_cannot_be_is_one_error(
    tmp_path: Path, memory: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        planned(Model(), torch.empty(16, 256), topology=cluster(tmp_path, *memory), **options)
    assert isinstance(getattr(caught.value, "inner_exception", caught.value), DjinnError)


def test_the_smallest_memory_that_is_named_does(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="least that would do") as caught:
        planned(Model(), torch.empty(16, 256), topology=cluster(tmp_path, "3MB", "3MB"))
    least = str(caught.value).split("and ")[1].split(" on each")[0]
    enough = f"{float(least.split()[0]) + 0.1:.1f} {least.split()[1]}"  # it is told to a tenth
    graph = planned(Model(), torch.empty(16, 256), topology=cluster(tmp_path, enough, enough))
    assert graph.plan.placement is not None
    assert len(graph.plan.placement.shares) == 2


def test_a_topology_without_a_path_is_refused(tmp_path: Path) -> None:
    file = Path(cluster(tmp_path, "9MB", "9MB"))
    file.write_text(file.read_text().replace("    - {between: [alpha/gpu1, alpha], class: pcie4-x16}\n", ""))
    with pytest.raises(Exception, match=r"cluster.yaml:\d+:\d+: no way from 'alpha/gpu0' to 'alpha/gpu1'"):
        planned(Model(), torch.empty(16, 256), topology=str(file))
