"""A graph over CUDA devices: the same answers, to the bit, on any stream and whoever writes into weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import djinn_fx
from djinn_fx.backend import compilations
from djinn_fx.runtime.devices.cuda.driver import Driver
from tests import graphs
from tests.compiling.devices.layered import Model
from tests.runtime.devices.cuda.spreading import spread

pytestmark = pytest.mark.gpu

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


HALVES = {"layers.0-1": "cuda:0", "layers.2-3": "cuda:1"}


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def compiled(model: nn.Module, **options: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(model, backend="djinn", options={"engine": "eager", **options})


@pytest.mark.parametrize("engine", ["eager", "inductor"])
def test_one_device_is_as_without_the_setting(engine: str) -> None:
    model, x = Model(1024).cuda().eval(), torch.randn(64, 1024, device="cuda:0")
    options = {"engine": engine, "compile": "blocking"}
    found = compiled(model, devices={"cuda:0": {}}, **options)(x)
    assert {region.device for region in compilations()[-1].plan.regions} == {"cuda:0"}
    assert torch.equal(found, compiled(model, **options)(x))


def test_a_device_that_is_not_here_is_one_clear_error() -> None:
    model, x = Model(64).cuda().eval(), torch.randn(8, 64, device="cuda:0")
    with pytest.raises(Exception, match="there is no cuda:99 here; torch finds cuda:0"):
        compiled(model, devices={"cuda:0": {}, "cuda:99": {}})(x)


class OneGpu(Driver):
    """Two devices' streams on one GPU. What passes goes through the host, as two copies of two streams."""

    def device(self, index: int) -> torch.device:
        return torch.device("cuda", 0)

    def use(self, index: int) -> None:
        torch.cuda.set_device(0)

    def peers(self, one: int, other: int) -> bool:
        return False


def test_streams_wait_for_each_other() -> None:
    def model(x: Tensor, w: Tensor) -> Tensor:
        for _ in range(8):
            x = torch.sin(x @ w)
        return x

    gm = graphs.trace(model, torch.empty(2048, 2048), torch.empty(2048, 2048))
    run = spread(graphs.lowered(gm), [0, 0, 1, 1], OneGpu())
    weight = torch.randn(2048, 2048, device="cuda") / 32
    side = torch.cuda.Stream()
    for turn in range(20):
        x = torch.randn(2048, 2048, device="cuda")
        wanted = model(x, weight)
        if turn % 2:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                (found,) = run([x, weight])
                same = (found == wanted).all()
            torch.cuda.current_stream().wait_stream(side)
        else:
            args = [x, weight]
            del x
            (found,) = run(args)
            same = (found == wanted).all()
        assert bool(same), turn
        weight.data.mul_(0.99)  # leaves no trace in torch


def test_batches_of_a_pipeline_on_streams_of_their_own() -> None:
    def model(x: Tensor, w: Tensor) -> Tensor:
        for _ in range(8):
            x = torch.sin(x @ w)
        return x

    gm = graphs.trace(model, torch.empty(1024, 1024), torch.empty(1024, 1024))
    run, weight = spread(graphs.lowered(gm), [0, 0, 1, 1], OneGpu()), torch.randn(1024, 1024, device="cuda") / 32
    batches = [torch.randn(1024, 1024, device="cuda") for _ in range(32)]
    wanted = [model(x, weight) for x in batches]
    given = ((batches.pop(0),) for _ in range(len(batches)))
    found = djinn_fx.pipeline(lambda x: run([x, weight])[0], given)
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert torch.equal(one, other), place


@needs_two
def test_a_pipeline_over_two_devices() -> None:
    model = Model(1024).to("cuda:0").eval()
    run = compiled(model, devices={"cuda:0": {}, "cuda:1": {}}, pin=HALVES, objective="throughput")
    batches = [torch.randn(64, 1024, device="cuda:0") for _ in range(32)]
    wanted = [model(x) for x in batches]
    for place, (one, other) in enumerate(zip(djinn_fx.pipeline(run, batches), wanted, strict=True)):
        assert torch.equal(one, other), place


@needs_two
@pytest.mark.parametrize("straight", [True, False])
@pytest.mark.parametrize("engine", ["eager", "inductor"])
def test_each_half_on_its_device_gives_what_one_device_gives(
    engine: str, straight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if straight and not torch.cuda.can_device_access_peer(0, 1):
        pytest.skip("these two devices cannot read each other's memory")
    if not straight:
        monkeypatch.setattr(Driver, "peers", lambda driver, one, other: False)
    model = Model(1024).to("cuda:0").eval()
    options = {"engine": engine, "compile": "blocking"}
    run = compiled(model, devices={"cuda:0": {}, "cuda:1": {}}, pin=HALVES, **options)
    for turn in range(10):
        x = torch.randn(64, 1024, device="cuda:0")
        found = run(x)
        wanted = model(x)
        assert found.device == x.device
        if engine == "eager":
            assert torch.equal(found, wanted), turn
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        model.layers[3].down.weight.data.mul_(1.01)
    assert {region.device for region in compilations()[-1].plan.regions} == {"cuda:0", "cuda:1"}


@needs_two
def test_copies_of_weights_are_gone_with_the_model() -> None:
    before = torch.cuda.memory_allocated(1)
    model, x = Model(1024).to("cuda:0").eval(), torch.randn(64, 1024, device="cuda:0")
    run = compiled(model, devices={"cuda:0": {}, "cuda:1": {}}, pin=HALVES)
    for _ in range(3):
        run(x)
    torch.cuda.synchronize(1)
    held = torch.cuda.memory_allocated(1) - before
    weights = sum(one.numel() * 4 for one in model.layers[2:].parameters())
    assert weights <= held <= 1.2 * weights
    del model, run
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.synchronize(1)
    assert torch.cuda.memory_allocated(1) - before < 0.1 * weights
