"""No engine answers with old weights, however they were written, where the kernel tells of writes and where not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from djinn_fx import status
from djinn_fx.engines.bound import rotation
from djinn_fx.engines.bound.write_protection import VARIABLE
from tests.engines.bound.writing import DELAYED, WAYS, Way
from tests.waiting import until

ENGINES = ("packed", "openvino", "onnxruntime", "inductor-packed")
WRITES = 200


class Model(nn.Module):
    """Matrices large enough to be watched page by page, vectors, and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(300, 128)
        self.norm = nn.LayerNorm(128)
        self.up, self.down = nn.Linear(128, 320), nn.Linear(320, 128)
        self.register_buffer("scale", torch.rand(128, 128))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.table(tokens))
        return (x + self.down(F.gelu(self.up(x)))) @ self.scale


class Served:
    """A compiled model, and whether it answers as eager does."""

    def __init__(self, engine: str, mode: Callable[[], Any], weights: str = "constant") -> None:
        self.mode = mode
        torch._dynamo.reset()
        torch.manual_seed(0)
        options = {"engine": engine, "cache_limit": "0", "weights": weights, "verify": "off"}
        with mode():
            self.model = Model().eval().requires_grad_(False)
            self.tokens = torch.arange(0, 300, 7)[None]
            self.compiled = torch.compile(self.model, backend="djinn", options=options)
            for _ in range(8):
                self.compiled(self.tokens)

    @property
    def matrices(self) -> list[Tensor]:
        return [self.model.up.weight, self.model.down.weight]

    @property
    def copied_bytes(self) -> int:
        return sum(one.memory_bytes for contest in status(self.compiled).contests for one in contest.entrants)

    def late(self, limit: int) -> int:
        """Calls with old weights until the first with the new ones."""
        with self.mode():
            wanted = self.model(self.tokens)
            allowed = 1e-3 * wanted.abs().max()
            close = ((self.compiled(self.tokens) - wanted).abs().max() <= allowed for _ in range(limit))
            return next((number for number, right in enumerate(close) if right), limit)

    def tame(self) -> None:
        """Weights of ordinary size again, by an ordinary write."""
        with torch.no_grad(), torch.inference_mode(self.mode is torch.inference_mode):
            for weight in self.matrices:
                weight.copy_(0.1 * torch.randn(weight.shape))


def writes(ways: Sequence[Way], count: int) -> list[tuple[int, Way]]:
    return list(enumerate(itertools.islice(itertools.cycle(ways), count)))


def check(served: Served, ways: Sequence[Way], count: int, *, told: bool) -> None:
    # Not on one machine in four is every product faster packed: then there is nothing to be stale.
    assert served.late(1) == 0
    for seed, way in writes(ways, count):
        weight = served.matrices[seed % 2]
        with torch.inference_mode(served.mode is torch.inference_mode):
            way(weight, 7 * seed + 3)
        late = served.late(rotation.MAX_CALLS + 1)
        assert late <= (rotation.MAX_CALLS if not told and way in DELAYED else 0), way.__name__
        if seed % 4 == 3:
            served.tame()
            assert served.late(1) == 0


def no_grad_ways(ways: Sequence[Way], mode: Any) -> list[Way]:
    """Those that a tensor of inference mode takes."""
    if mode is torch.no_grad:
        return list(ways)
    refused = ("sgd", "adamw", "load_state_dict", "swapped_tensors", "from_a_vector", "by_dlpack")
    return [way for way in ways if way.__name__ not in refused]


@pytest.mark.exam
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("engine", ENGINES)
def test_two_hundred_writes(engine: str, mode: Any, told: bool) -> None:
    ways = no_grad_ways(WAYS, mode)
    assert len(ways) >= 25
    # Those of inference mode have no counter: unless they are protected, who insists on packing sees writes late.
    weights = "constant" if told or mode is torch.no_grad else "auto"
    check(Served(engine, mode, weights), ways, WRITES if mode is torch.no_grad else 2 * len(ways), told=told)


@pytest.mark.parametrize("engine", ["packed", "openvino"])
def test_some_writes_of_each_kind(engine: str, told: bool) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    served = Served(engine, torch.no_grad)
    check(served, WAYS[::4], 10, told=told)
    if engine == "openvino":
        assert until(lambda: served.copied_bytes > 0)  # packed anew beside the calls, after the last write


@pytest.mark.parametrize("compile", ["blocking", "background"])
def test_modules_are_converted_by_swapping_after_packing(compile: str) -> None:
    torch._dynamo.reset()
    model = Model().eval()
    tokens = torch.arange(40)[None]
    compiled = torch.compile(
        model, backend="djinn", options={"engine": "packed", "cache_limit": "0", "compile": compile}
    )
    with torch.no_grad():
        for _ in range(4):
            compiled(tokens)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double().float()  # and back: no other code is compiled
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    with torch.no_grad():
        model.up.weight.mul_(2)
        assert torch.allclose(compiled(tokens), model(tokens), rtol=1e-3, atol=1e-3)


def test_status_says_how_weights_are_watched(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    served = Served("packed", torch.no_grad)
    found = status(served.compiled)
    assert (found.unprotected is None) == told
