"""torch.compile with djinn's TensorRT engine, on the CPU: all is real but the GPU, whose part ONNX Runtime plays.

Regions are traced, cut, converted, built into plans and kept; a plan is "run" by running the model it was made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import djinn_fx.backend
from djinn_fx.engines import registry
from djinn_fx.engines.base import Artefact, Capability
from djinn_fx.engines.tensorrt import engine as module
from djinn_fx.engines.tensorrt.building import worker
from djinn_fx.engines.tensorrt.building.rehearsal import Rehearsal
from djinn_fx.engines.tensorrt.engine import TensorRTEngine
from djinn_fx.engines.tensorrt.run import session
from djinn_fx.engines.tensorrt.run.calling import Calling
from djinn_fx.engines.tensorrt.run.session import Session
from djinn_fx.settings.table import Settings
from tests.engines.tensorrt.fake_gpu import ALIGNMENT, FakeDriver

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

OPTIONS: dict[str, Any] = {"engine": "tensorrt", "target": "sm89", "compile": "blocking", "on_failure": "raise"}


class Machine:
    """What a machine with a GPU would have done."""

    def __init__(self) -> None:
        self.models: dict[str, bytes] = {}
        self.drivers: list[FakeDriver] = []
        #: Turns what a plan computes into something else.
        self.twist: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]] = lambda made: made

    def build(self, request: Any, blobs: Sequence[bytes]) -> tuple[dict[str, Any], bytes]:
        header, plan = worker.build(request, blobs)
        self.models[hashlib.sha256(plan).hexdigest()] = blobs[0]
        return header, plan

    def load(self, artefact: Artefact) -> Session:
        assert artefact.payload is not None
        model = Rehearsal(self.models[hashlib.sha256(artefact.payload).hexdigest()])
        calling = Calling.from_json(artefact.header["calling"])
        driver = FakeDriver(calling, lambda given: self.twist(model(given)))
        self.drivers.append(driver)
        return Session(artefact.payload, calling, driver, device_type="cpu", label="region")

    @property
    def runs(self) -> int:
        """How often plans were run."""
        return sum(len(context.runs) for driver in self.drivers for context in driver.contexts)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine()
    capability = Capability(can_build=True, can_run=True)
    monkeypatch.setattr(session, "ALIGNMENT", ALIGNMENT)
    monkeypatch.setattr(module, "_built", lambda request, label: made.build(request.request, request.blobs))
    monkeypatch.setattr(TensorRTEngine, "capability", lambda self: capability)
    monkeypatch.setattr(TensorRTEngine, "load", lambda self, artefact: made.load(artefact))
    djinn_fx.backend.reset()
    with torch.no_grad():
        yield made
    djinn_fx.backend.reset()


def compiled(model: Any, *, dynamic: bool | None = False, **options: Any) -> Any:
    return torch.compile(model, backend=djinn_fx.backend.djinn, dynamic=dynamic, options={**OPTIONS, **options})


class Layer(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.silu(self.up(self.norm(x))))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_plan_answers_as_eager_does(machine: Machine) -> None:
    layer = Layer().eval()
    run = compiled(layer)
    for _ in range(3):
        x = torch.randn(4, 64)
        close(run(x), layer(x))
    (graph,) = djinn_fx.backend.compilations()
    assert {build.engine for build in graph.builds} == {"tensorrt"}
    assert machine.runs == 4  # the first twice beside eager, to be compared


def test_twelve_layers_are_built_once_and_checked_once(machine: Machine) -> None:
    model = nn.Sequential(*(Layer(256) for _ in range(12))).eval()
    run = compiled(model, regions="auto:1")
    x = torch.randn(64, 256)
    for _ in range(2):
        close(run(x), model(x))
    (graph,) = djinn_fx.backend.compilations()
    assert len(graph.plan.regions) >= 12
    assert len(machine.models) == sum(build.outcome == "built" for build in graph.builds)
    assert len(machine.models) == graph.plan.distinct_regions < 12
    # The first call is tried twice beside eager, and so is the tenth.
    assert machine.runs == 2 * len(graph.plan.regions) + 2


def test_wrong_numbers_never_leave(machine: Machine) -> None:
    machine.twist = lambda made: [one * 1.05 for one in made]
    layer = Layer().eval()
    run = compiled(layer)
    for _ in range(3):
        x = torch.randn(4, 64)
        close(run(x), layer(x))
    assert machine.runs <= 2


def test_a_wrong_plan_is_out_for_the_next_process_too(machine: Machine) -> None:
    machine.twist = lambda made: [one * 1.05 for one in made]
    layer = Layer().eval()
    for _ in range(2):
        x = torch.randn(4, 64)
        close(compiled(layer)(x), layer(x))
        tried = machine.runs
        djinn_fx.backend.reset()
    assert machine.runs == tried <= 2


def test_what_is_dropped_goes_to_inductor(machine: Machine) -> None:
    machine.twist = lambda made: [one * 1.05 for one in made]
    layer = Layer().eval()
    run = compiled(layer)
    x = torch.randn(4, 64)
    close(run(x), layer(x))
    status = djinn_fx.wait_until_ready(run, timeout=200)
    (region,) = status.regions
    assert region.engine == "inductor"
    close(run(x), layer(x))


def test_a_cost_model_without_a_hash_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        name = "mine"
        __hash__ = None  # type: ignore[assignment]

        def op(self, work: Any, device: Any) -> Any: ...

        def region(self, graph: Any, device: Any, engine: str) -> Any: ...

    settings = Settings(engine="tensorrt", cost_model=Model())
    with pytest.raises(TypeError):
        hash(settings)
    monkeypatch.setattr(module, "_DRIVERS", {})
    first, second = (registry.engine("tensorrt", settings) for _ in range(2))
    assert isinstance(first, TensorRTEngine)
    assert isinstance(second, TensorRTEngine)
    assert module._driver("tensorrt_rtx", first.store) is module._driver("tensorrt_rtx", second.store)


def test_sizes_outside_the_profile_run_eagerly(machine: Machine) -> None:
    layer = Layer().eval()
    run = compiled(layer, dynamic=True)
    for rows in (6, 7, 6, 5000):
        x = torch.randn(rows, 64)
        close(run(x), layer(x))
    assert len(djinn_fx.backend.compilations()) == 1
    assert machine.runs == 4  # the first twice


def test_a_cache_is_written_once_a_call(machine: Machine) -> None:
    def step(cache: torch.Tensor, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        cache.index_copy_(1, place, x)
        return cache.sum(1)

    run = compiled(step)
    mine, theirs = torch.zeros(2, 8, 4), torch.zeros(2, 8, 4)
    for at in (0, 3, 3):
        x, place = torch.randn(2, 1, 4), torch.tensor([at])
        close(run(mine, x, place), step(theirs, x, place))
        close(mine, theirs)
